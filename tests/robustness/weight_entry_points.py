"""Checkpoints, shared weights, and the weights of others."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

from config_entry_points import hostile_yaml, yaml_of
from entry_point import RUBBISH, EntryPoint, Hostile, command, same
from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.checkpoint.safe_load import export_weights, read_checkpoint
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling.backbone import ViTBackbone
from prompt_das.modeling.load import load_model
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.vit_weights import load_vit_weights

import torch
from safetensors.torch import save_file
from torch import nn


def trained(folder: Path, tiny: list[str]) -> list[Path]:
    """The folder of a run with its last two checkpoints and its config."""
    cfg = get_prompt_das_cfg(None, tiny)
    student = PromptDAS(cfg)
    run = PromptDASCheckpointer(student, str(folder), teacher=PromptDAS(cfg))
    for number in (1, 2):
        nn.init.constant_(student.decoder.mask_token, number)
        run.save(f"model_000000{number}", iteration=number)
    (folder / "config.yaml").write_text(cfg.dump())
    return [folder / "model_0000002.pth"]


def trained_config(folder: Path, tiny: list[str]) -> list[Path]:
    trained(folder, tiny)
    return [folder / "config.yaml"]


def load_trained(folder: Path) -> Any:
    cfg, model = load_model(folder / "model_0000002.pth")
    return [yaml_of(cfg), model.state_dict()]


def same_weights(found: Any, true: Any) -> bool:
    """Another config, which text cannot notice; but the weights are those of the file."""
    return same(found[1], true[1])


def exported(folder: Path, tiny: list[str]) -> list[Path]:
    cfg = get_prompt_das_cfg(None, tiny)
    export_weights(folder / "shared.safetensors", PromptDAS(cfg).state_dict(), cfg.dump())
    return [folder / "shared.safetensors"]


def load_exported(folder: Path) -> Any:
    cfg, model = load_model(folder / "shared.safetensors")
    return [yaml_of(cfg), model.state_dict()]


def foreign(folder: Path, tiny: list[str]) -> list[Path]:
    save_file(encoder().state_dict(), folder / "vit.safetensors")
    return [folder / "vit.safetensors"]


def dino(folder: Path, tiny: list[str]) -> list[Path]:
    torch.save({"teacher": {f"backbone.{k}": v for k, v in encoder().state_dict().items()}}, folder / "vit.pth")
    return [folder / "vit.pth"]


def encoder() -> nn.Module:
    return ViTBackbone(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, mlp_ratio=4).vit


def load_encoder(folder: Path) -> Any:
    (path,) = folder.iterdir()
    vit = encoder()
    load_vit_weights(vit, str(path))
    return vit.state_dict()


def is_encoder(found: Any, true: Any) -> bool:
    """Other values of an uncompressed file without a checksum, by name and shape those of the network, and finite."""
    return found.keys() == true.keys() and all(
        v.shape == true[k].shape and bool(v.isfinite().all()) for k, v in found.items()
    )


def resume(folder: Path) -> Any:
    """Damage falls back to the checkpoint before: that one is right, too."""
    cfg = get_prompt_das_cfg(folder / "config.yaml")
    student, teacher = PromptDAS(cfg), PromptDAS(cfg)
    rest = PromptDASCheckpointer(student, str(folder), teacher=teacher).resume_or_load("", resume=True)
    assert rest["iteration"] in (1, 2)
    expected = read_checkpoint(folder / f"model_000000{rest['iteration']}.pth")
    assert same(student.state_dict(), expected["model"])
    assert student.decoder.mask_token.unique().tolist() == [rest["iteration"]]
    return teacher.state_dict()


def share(folder: Path) -> Any:
    out = folder / "out.safetensors"
    command("convert", "--from", "training", "--overwrite", str(folder / "model_0000002.pth"), str(out))
    return read_checkpoint(out)


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def hostile_weights(canary: Path) -> dict[str, bytes]:
    packed = io.BytesIO()
    whole = zipfile.ZipFile(io.BytesIO(saved({"model": {"w": torch.zeros(1 << 20)}})))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
        for record in whole.infolist():
            bomb.writestr(record.filename, whole.read(record))
    weights = encoder().state_dict()
    values = weights["norm.weight"]
    odd: dict[str, Any] = {
        "not finite": torch.full_like(values, float("nan")),
        "infinite": torch.full_like(values, float("inf")),
        "integers": values.long(),
        "complex": values.cfloat(),
        "another shape": torch.zeros(7),
        "claims to be huge": torch.zeros(1).expand(10**13),
        "sparse": values.to_sparse(),
        "meta": values.to("meta"),
        "quantized": torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
        "a word": "hello",
        "a list": [1, 2, 3],
        "nothing": None,
    }
    files = {name: saved(weights | {"norm.weight": value}) for name, value in odd.items()}
    files |= {f"{name}, in a teacher": saved({"model": weights, "teacher": weights | {"norm.weight": value}})
              for name, value in odd.items()}  # fmt: skip
    return {
        **files,
        "os.system": saved({"model": Hostile(canary)}),
        "eval": saved({"teacher": Hostile(canary, eval)}),
        "old format": saved({"model": Hostile(canary)}, _use_new_zipfile_serialization=False),
        "Detectron2's pickle": pickle.dumps({"model": Hostile(canary), "__author__": "x"}),
        "protocol 0": pickle.dumps(Hostile(canary), 0),
        "packed": packed.getvalue(),
        "positions of another kind": saved(weights | {"pos_embed": torch.zeros(3)}),
        "positions that are huge": saved(weights | {"pos_embed": torch.zeros(1, 1, 1).expand(1, 10**12, 32)}),
        "no names": saved({1: values, "a": values}),
        "a tensor": saved(values),
        "a list of tensors": saved([values]),
        "a model that is a list": saved({"model": [values], "teacher": [values]}),
        "a model that is a tensor": saved({"model": values, "teacher": values}),
        "empty": saved({}),
        "empty model": saved({"model": {}, "teacher": {}}),
        "a name too many": saved(weights | {"backdoor.weight": values}),
        "no file": b"",
        "text": b"hello",
        "an archive of nothing": b"PK\x05\x06" + bytes(18),
        "rubbish": RUBBISH,
    }


def hostile_safetensors(canary: Path) -> dict[str, bytes]:
    def file(header: object, data: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    config = {"prompt_das.config": f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {canary}']\n"}
    base = {"prompt_das.config": "_BASE_: http://127.0.0.1:9/x.yaml\n"}
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    large = get_prompt_das_cfg(
        None, ["MODEL.VIT.EMBED_DIM", "8192", "MODEL.VIT.DEPTH", "256", "MODEL.VIT.NUM_HEADS", "8"]
    )
    return {
        "a config with code": file({"__metadata__": config, "w": one}, bytes(4)),
        "a config with a base": file({"__metadata__": base, "w": one}, bytes(4)),
        "a config of a huge network": file({"__metadata__": {"prompt_das.config": large.dump()}, "w": one}, bytes(4)),
        "no config": file({"w": one}, bytes(4)),
        "a huge header": (1 << 60).to_bytes(8, "little"),
        "a huge tensor": file({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        "a shape that overflows": file({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        "deep": file(b"[" * 100_000),
        "a list": file([1, 2]),
        "pickle": pickle.dumps(Hostile(canary)),
        "nothing": b"",
    }


def hostile_checkpoints(canary: Path) -> dict[str, bytes]:
    """For a network of which nothing in them is."""
    return hostile_weights(canary)


ENTRY_POINTS = {
    "configs: of a run": EntryPoint(trained_config, load_trained, frozenset({"cut"}), same_weights, hostile_yaml, True),
    "weights: checkpoint": EntryPoint(trained, load_trained, hostile=hostile_checkpoints),
    "weights: resume": EntryPoint(trained, resume),
    "weights: export": EntryPoint(trained, share, hostile=hostile_checkpoints, read_elsewhere=True),
    "weights: shared": EntryPoint(exported, load_exported, hostile=hostile_safetensors),
    "weights: DINO": EntryPoint(dino, load_encoder, hostile=hostile_weights),
    "weights: foreign safetensors": EntryPoint(
        foreign, load_encoder, frozenset({"cut"}), is_encoder, hostile_safetensors
    ),
}
