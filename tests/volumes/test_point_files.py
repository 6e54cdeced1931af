"""Files of sparse points: round trip, foreign formats, and errors that say what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

from prompt_das.volumes.point_files import read_clicks, read_points, write_points

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

coordinates = st.floats(0, 5000, width=32)
tables = st.dictionaries(st.integers(0, 999), st.lists(st.tuples(coordinates, coordinates), max_size=4), max_size=4)


def write(folder: Path, text: str) -> Path:
    path = folder / "points.txt"
    path.write_text(text)
    return path


def assert_same(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for z in a:
        assert a[z].dtype == np.float32
        np.testing.assert_array_equal(a[z], b[z])


# ---- our own format


@given(tables)
def test_what_is_written_is_read_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, table: dict) -> None:
    path = tmp_path_factory.mktemp("points") / "points.json"
    points = {z: np.array(p, np.float32).reshape(-1, 2) for z, p in table.items()}
    write_points(path, points)
    assert_same(read_points(path), points)


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "points.json"
    write_points(
        path, {3: np.array([[1.5, 2.5], [0.1, 7]]), 1: np.zeros((0, 2))}, dataset="vnc_train", ratio=0.15, seed=0
    )
    content = json.loads(path.read_text())
    assert content["format"] == "prompt_das/points"
    assert content["version"] == 1
    assert (content["dataset"], content["ratio"], content["seed"]) == ("vnc_train", 0.15, 0)
    assert list(content["slices"].items()) == [("1", []), ("3", [[1.5, 2.5], [0.1, 7.0]])]
    assert '\n  "3": [[1.5, 2.5], [0.1, 7.0]]' in path.read_text()  # a slice a line: diffs stay readable


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "points.json"
    write_points(path, {0: np.ones((1, 2))})

    def full_disk(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        write_points(path, {})
    assert os.listdir(tmp_path) == ["points.json"]
    assert_same(read_points(path), {0: np.ones((1, 2))})


# ---- foreign formats


def test_a_napari_export_counts_pixels_from_zero(tmp_path: Path) -> None:
    path = write(tmp_path, "index,axis-0,axis-1,axis-2\n0.0,2.0,10.0,20.0\n1.0,0.0,0.0,0.0\n2.0,2.0,11.25,21.0\n")
    assert_same(
        read_points(path),
        {0: np.array([[0.5, 0.5]], np.float32), 2: np.array([[20.5, 10.5], [21.5, 11.75]], np.float32)},
    )


@pytest.mark.parametrize("text", ["z,y,x\n2,10,20\n", "x, y, z, who\n20, 10, 2, me\n", "\ufeffZ,Y,X\r\n2,10,20\r\n"])
def test_csv_with_named_columns_in_any_order(tmp_path: Path, text: str) -> None:
    assert_same(read_points(write(tmp_path, text)), {2: np.array([[20.5, 10.5]], np.float32)})


@pytest.mark.parametrize(
    "text",
    ["[[2, 10, 20], [0, 3, 4.25]]", '[{"z": 2, "y": 10, "x": 20}, {"x": 4.25, "y": 3, "z": 0, "who": "me"}]'],
)
def test_a_json_list_of_slice_row_and_column(tmp_path: Path, text: str) -> None:
    expected = {0: np.array([[4.75, 3.5]], np.float32), 2: np.array([[20.5, 10.5]], np.float32)}
    assert_same(read_points(write(tmp_path, text)), expected)


def test_an_empty_json_list_has_no_points(tmp_path: Path) -> None:
    assert read_points(write(tmp_path, "[]")) == {}


def test_csv_without_rows_has_no_points(tmp_path: Path) -> None:
    assert read_points(write(tmp_path, "z,y,x\n")) == {}


WDANET = """[[{"width": 768}, {"height": 1024}],
 [{"train001.png": [[17, 233]]}, {"train005.png": [[51, 620], [767, 1023]]}, {"train010.png": []}]]"""


def test_wdanet_points_of_slices_that_differ_in_their_ending_only(tmp_path: Path) -> None:
    text = '[[{"width": 8}], [{"a.png": [[1, 2]]}, {"a.tif": [[3, 4]]}, {"b.jpg": [[5, 6]]}]]'
    points = read_points(write(tmp_path, text), ["a.png", "a.tif", "b.bmp"])
    assert {z: one.tolist() for z, one in points.items()} == {0: [[2.5, 1.5]], 1: [[4.5, 3.5]], 2: [[6.5, 5.5]]}
    with pytest.raises(ValueError, match=r"points of b\.jpg, which may be the slices b\.png and b\.bmp"):
        read_points(write(tmp_path, text), ["a.png", "a.tif", "b.png", "b.bmp"])


def test_wdanet_points_go_by_file_name(tmp_path: Path) -> None:
    """Slices that the volume lacks are left out, and the size in the file, which is swapped, is not believed."""
    points = read_points(write(tmp_path, WDANET), ["train005.tif", "train010.tif", "train015.tif"], size=(768, 1024))
    assert_same(points, {0: np.array([[620.5, 51.5], [1023.5, 767.5]], np.float32), 1: np.zeros((0, 2), np.float32)})


@pytest.mark.parametrize("name", ["cvlab_5pct", "cvlab_15pct_split3", "cvlab_50pct"])
def test_published_points_lie_on_mitochondria(name: str, real_data: Path) -> None:
    """WDA-Net's points on the real Lucchi volume: a wrong axis order or offset would miss many."""
    root = real_data / "lucchi" / "train"
    files = sorted((root / "inst").glob("*.png"))
    points = read_points(root / "points" / f"{name}.json", [f.name for f in files], size=(768, 1024))
    inside = []
    for z, p in points.items():
        labels = cv2.imread(str(files[z]), cv2.IMREAD_UNCHANGED)
        column, row = p.astype(int).T
        inside += (labels[row, column] > 0).tolist()
    assert len(inside) > 20
    assert np.mean(inside) > 0.99


# ---- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "prompt_das/points", "vers', "cut off"),
        ('{"points": []}', "prompt_das/points"),
        ('{"format": "prompt_das/points", "version": 2, "slices": {}}', "version 2"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"a": []}}', "slice 'a'"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"4": [[1, 2, 3]]}}', "slice 4"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"4": [[1, NaN]]}}', "finite"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"4": [[1, 2], [3]]}}', "number pairs"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"-1": [[1, 2]]}}', "slice -1"),
        ("[1, 2, 3]", "WDA-Net"),
        ('[[0, 1, "two"]]', "not a .* of finite numbers"),
        ("[[0, 1, 2], [0, NaN, 2]]", "not a .z, y, x. of finite numbers"),
        (WDANET, "is not a folder"),
        ("x,y\n1,2\n", "axis-0, axis-1, axis-2 or z, y, x"),
        ("", "axis-0"),
        ("z,y,x\n0,1,2\n0,one,2\n", "line 3"),
        ("z,y,x\n0,1\n", "line 2"),
        ("z,y,x\nnan,1,2\n", "line 2"),
    ],
)
def test_a_bad_file_is_named_with_its_value(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        read_points(path)
    assert str(path) in str(error.value)


def test_points_of_another_volume_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train001.png.*slice_0.png.*another volume"):
        read_points(write(tmp_path, WDANET), ["slice_0.png"])


def test_points_outside_the_image_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "z,y,x\n0,3,9\n0,9,3\n")
    assert len(read_points(path, size=(10, 10))[0]) == 2
    with pytest.raises(ValueError, match=r"slice 0: point 1 \(x=3.5, y=9.5\) .* 10 x 5 px .* 1 of 2 do.*swapped"):
        read_points(path, size=(5, 10))


def test_slices_outside_the_volume_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "z,y,x\n7,3,9\n")
    assert list(read_points(path, num_slices=8)) == [7]
    with pytest.raises(ValueError, match="slice 7, but the volume has slices 0 to 6"):
        read_points(path, num_slices=7)
    with pytest.raises(ValueError, match="slices 0 to 1"):
        read_points(path, ["a.png", "b.png"])


def test_a_missing_file_points_to_the_tool(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.json.*`prompt-das sample-points`"):
        read_points(tmp_path / "absent.json")


# ---- what looks like points


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z,y,x\n0,1,5,2,5\n", r"line 2: more values than the 3 columns z, y, x; are there decimal commas\?"),
        ("z,y,x,x\n0,1,2,3\n", "expected .* each once"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"0": [], "0": []}}', "the key '0' comes twice"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"1": [], "01": []}}', "slice 1 comes twice"),
        (
            '{"format": "prompt_das/points", "version": 1, "slices": {"0": [["1", 2]]}}',
            r"slice 0: \['1', 2, 1\] is not",
        ),
        (
            '{"format": "prompt_das/points", "version": 1, "slices": {"0": [[true, 2]]}}',
            r"slice 0: \[True, 2, 1\] is not",
        ),
        (
            '{"format": "prompt_das/points", "version": 1, "slices": {"0": [[1e39, 2]]}}',
            r"slice 0: \[1e\+39, 2, 1\] is not",
        ),
        ("[[0, 1, " + "9" * 10**6 + "]]", "not a .* of finite numbers"),
        ("[" * 10**5, "nested too deeply"),
        ("z,y,x\n0,1,\0\n", "line 2: "),
        ("z,y,x\n0,1," + "1" * 200_000, "not CSV"),
    ],
)
def test_what_looks_like_points_and_is_not(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"points\.txt.*{message}"):
        read_points(write(tmp_path, text))


def test_a_slice_that_comes_under_two_names(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps([[], [{"a.png": [[1, 2]]}, {"a.tif": [[3, 4]]}]]))
    with pytest.raises(ValueError, match=r"points of a\.png and of a\.tif, which are one slice"):
        read_points(path, ["a.png"])


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes("z,y,x\n2,10,20\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"points\.csv: not text in UTF-8"):
        read_points(path)


@pytest.mark.parametrize(("text", "warned"), [("z,y,x\n2,10,20\n", False), ("z,y,x\n2,10,2", True)])
def test_a_table_that_ends_within_a_line_may_have_been_cut_off(
    tmp_path: Path, text: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    read_points(write(tmp_path, text))
    assert ("points.txt: its last line has no end" in caplog.text) == warned


# ---- labels


def test_clicks_are_written_and_read_with_their_labels(tmp_path: Path) -> None:
    clicks = {3: np.array([[1.5, 2.5, 1], [4.25, 5.5, 0]], np.float32), 5: np.zeros((0, 3), np.float32)}
    write_points(tmp_path / "points.json", clicks)
    assert_same(read_clicks(tmp_path / "points.json"), clicks)
    positive = read_points(tmp_path / "points.json")
    assert positive[3].tolist() == [[1.5, 2.5]]
    assert positive[5].shape == (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "z,y,x,label\n0,2,1,1\n0,5,4,0\n0,7,6,\n",
        "[[0, 2, 1, 1], [0, 5, 4, 0], [0, 7, 6]]",
        '[{"z": 0, "y": 2, "x": 1}, {"z": 0, "y": 5, "x": 4, "label": 0}, {"z": 0, "y": 7, "x": 6}]',
        '{"format": "prompt_das/points", "version": 1, "slices": {"0": [[1.5, 2.5], [4.5, 5.5, 0], [6.5, 7.5, 1]]}}',
    ],
)
def test_every_format_has_labels_and_a_point_without_one_is_positive(tmp_path: Path, text: str) -> None:
    assert read_clicks(write(tmp_path, text))[0].tolist() == [[1.5, 2.5, 1], [4.5, 5.5, 0], [6.5, 7.5, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z,y,x,label\n0,2,1,2\n", "label 2 of a point; it is 1"),
        ("[[0, 2, 1, -1]]", "label -1 of a point; it is 1"),
        ("z,y,x,label\n0,2,1,yes\n", "line 2: .* a label that is no number"),
        ('{"format": "prompt_das/points", "version": 1, "slices": {"0": [[1, 2, 3, 4]]}}', "pairs with a label"),
    ],
)
def test_a_label_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"points\.txt.*{message}"):
        read_clicks(write(tmp_path, text))
