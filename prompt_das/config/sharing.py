"""The part of a run's config that is written with shared weights: the network, its input, its inference."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode

SECTIONS = ("MODEL", "INPUT", "TEST", "DOMAIN_ADAPT")
KEPT = {  # of other sections: what an adaptation of the weights begins from
    "SOLVER": ("BASE_LR", "IMS_PER_BATCH"),
    "DATALOADER": ("TARGET_IMS_PER_BATCH",),
}
LEFT_OUT = (
    "MODEL.WEIGHTS",  # files of the machine
    "MODEL.VIT.WEIGHTS",
    "MODEL.DEVICE",  # hardware of the machine
    "MODEL.COMPILE",
    "MODEL.CUDA_GRAPHS",
    "DOMAIN_ADAPT.ENABLED",  # needs data
)


def config_for_sharing(cfg: CfgNode) -> str:
    """The YAML text of ``cfg`` without data sets, iterations, and paths and devices of this machine.

    Plugins are kept by name, since the network cannot be built without them, but without their folders.
    """
    shared = CfgNode({name: cfg[name].clone() for name in SECTIONS})
    for name, keys in KEPT.items():
        shared[name] = CfgNode({key: cfg[name][key] for key in keys})
    shared.VERSION = cfg.VERSION
    if cfg.PLUGINS:
        shared.PLUGINS = tuple(Path(name).name for name in cfg.PLUGINS)
    shared.defrost()
    for key in LEFT_OUT:
        *sections, name = key.split(".")
        node = shared
        for section in sections:
            node = node[section]
        del node[name]
    return shared.dump()
