"""The data sets whose names come with the package.

They lie below the environment variable DETECTRON2_DATASETS (default `datasets`), which is looked up when a data set is
used; datasets/README.md says what goes where. Importing this module registers the names, and reads nothing.
"""

from __future__ import annotations

from typing import Any

from prompt_das.data.datasets import register_spec
from prompt_das.data.volume_spec import VolumeSpec

from detectron2.data import DatasetCatalog, MetadataCatalog

SYNTHETIC = "synthetic"  # an endless labeled source (prompt_das.volumes.synthetic_tissue)
SYNTHETIC_PIXEL_SIZE = 20.0  # in nm


def register_builtin() -> None:
    """Register all of them."""
    for species, letter in (("rat", "R"), ("human", "H")):
        for split, expected in (("train", 400), ("val", 100)):
            spec = VolumeSpec(f"MitoEM-{letter}", voxel_size=(30, 8, 8), mitoem_split=split, expected=expected)
            register_spec(f"mitoem_{species}_{split}", spec)
    for domain in ("source", "target"):
        for split in ("train", "val"):
            spec = VolumeSpec(f"synthetic/{domain}", voxel_size=(30, 8, 8), mitoem_split=split)
            register_spec(f"synthetic_{domain}_{split}", spec)
    DatasetCatalog.register(SYNTHETIC, _synthetic_slices)
    MetadataCatalog.get(SYNTHETIC).set(thing_classes=["mitochondrion"])
    # VNC's labels are masks by origin; their components are the same if ids are found instead.
    register_spec("vnc_train", VolumeSpec("vnc/img", "vnc/inst", voxel_size=(50, 4.6, 4.6), label_type="semantic"))
    for split in ("train", "test"):
        register_spec(
            f"lucchi_{split}", VolumeSpec(f"lucchi/{split}/img", f"lucchi/{split}/inst", voxel_size=(5, 5, 5))
        )


def _synthetic_slices() -> list[dict[str, Any]]:
    """One dict, from which training draws a new micrograph each time."""
    common = {"dataset_name": SYNTHETIC, "image_id": SYNTHETIC, "label_file_name": SYNTHETIC}
    return [{**common, "synthetic": True, "voxel_size": (SYNTHETIC_PIXEL_SIZE,) * 3}]


register_builtin()
