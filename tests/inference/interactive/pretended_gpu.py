"""A GPU that does not exist: tensors that say they are on it, and hold their values on the CPU.

As on a real one, an operation on tensors of two devices fails, and so does a look at values that were not brought to
the host. What is computed is what a CPU computes. It has no gradients, and exists for the thread that asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
MOVING = {"copy_", "_to_copy"}  # may have tensors of two devices
INDEXING = {"index", "index_put", "index_put_"}  # of a tensor on the GPU, the indices may lie on the CPU


class OnGPU(Tensor):
    """A tensor on the GPU; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls: type[OnGPU], held: Tensor) -> OnGPU:
        made = Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype, device=CUDA)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(func, args, kwargs or {})


class Devices(TorchDispatchMode):
    """Knows which results belong on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        on_gpu = any(isinstance(x, OnGPU) for x in tree_leaves((args, kwargs)))
        return compute(func, args, kwargs) if on_gpu or asks_for_gpu(kwargs) else func(*args, **kwargs)


def asks_for_gpu(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"


def compute(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values. Raises RuntimeError where tensors of two devices meet."""
    name = func._schema.name.split("::")[1]
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in tensors if isinstance(x, OnGPU)]
    elsewhere = [x for x in tensors if not isinstance(x, OnGPU) and x.ndim]  # scalars may come from the CPU
    allowed = name in MOVING or (name in INDEXING and isinstance(args[0], OnGPU))
    if here and elsewhere and not allowed:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    if name == "copy_":
        to_gpu = isinstance(args[0], OnGPU)
    else:
        to_gpu = asks_for_gpu(kwargs) if kwargs.get("device") is not None else bool(here)
    on_cpu = {**kwargs, **{key: torch.device("cpu") for key in ("device",) if kwargs.get(key) is not None}}
    args_of_cpu, kwargs_of_cpu = tree_map_only(OnGPU, lambda x: x.held, (args, on_cpu))
    result = func(*args_of_cpu, **kwargs_of_cpu)
    same = {id(x.held): x for x in here} | {id(x): x for x in elsewhere}  # what an operation in place returns
    return tree_map_only(Tensor, lambda x: same[id(x)] if id(x) in same else OnGPU(x) if to_gpu else x, result)


def move(network: nn.Module) -> None:
    """Put the parameters and buffers of a network on the GPU."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(OnGPU(parameter.data), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, OnGPU(buffer))


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In it, ``device="cuda"`` means this GPU."""
    to_numpy, new_tensor, from_data = Tensor.numpy, Tensor.new_tensor, torch.tensor

    def numpy(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, OnGPU):
            raise TypeError("a tensor on a GPU has no NumPy array: bring it to the host first")
        return to_numpy(self, *args, **kwargs)

    def new(self: Tensor, data: Any, **kwargs: Any) -> Tensor:
        return OnGPU(new_tensor(self.held, data, **kwargs)) if isinstance(self, OnGPU) else new_tensor(self, data)

    def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        made = from_data(data, **kwargs)
        return OnGPU(made) if asks_for_gpu({"device": device}) else made

    torch._C._ensureCUDADeviceGuardSet()  # or tensors could not say that they are there
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(Tensor, "numpy", numpy)
        patch.setattr(Tensor, "new_tensor", new)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        with Devices():
            yield
