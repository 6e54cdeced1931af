"""CUDA graphs: a pass of the network is recorded once for the shapes that it is called with, and replayed as a whole.

A training iteration of the paper's size is some 5000 operations, and takes 18 times as long on a GPU as its arithmetic
would in one large matrix product (docs/PERFORMANCE.md); a graph is launched as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

CALLS_BEFORE = 2  # calls of a kind that run as written: they find out what kernels to use, and most kinds come once
MOST_RECORDINGS = 16  # each holds its outputs and gradients


def uses_cuda_graphs(cfg: CfgNode) -> bool:
    """Whether a training with this config replays on GPUs."""
    return cfg.MODEL.CUDA_GRAPHS and not cfg.MODEL.COMPILE


class CudaGraphs:
    """Calls methods of one network. On a GPU, calls of a kind that comes again and again are recorded, then replayed.

    A kind is a method, its settings, and the shapes of its tensors. What a replayed call returns is overwritten by the
    next one of its kind, and what its gradient needs by the next one of any kind: use it before. A copy of the network
    begins without recordings.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._calls: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, Recording] = {}
        self._pool: Any = None

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[bool]]:
        return CudaGraphs, (self.enabled,)

    def __call__(self, method: Callable[..., Any], *tensors: Tensor, **settings: Hashable) -> Any:
        """``method(*tensors, **settings)``; it is a network's, and what it returns holds tensors only."""
        # The gradients of several processes are averaged during the backward pass, which is not for replay.
        if not self.enabled or not tensors[0].is_cuda or comm.get_world_size() > 1:
            return method(*tensors, **settings)
        network = cast(nn.Module, cast(MethodType, method).__self__)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        kind = (method.__name__, tuple(sorted(settings.items())), shapes, network.training, torch.is_grad_enabled())
        if kind not in self._recordings:
            self._calls[kind] += 1
            if self._calls[kind] <= CALLS_BEFORE or len(self._recordings) == MOST_RECORDINGS:
                return method(*tensors, **settings)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            function = partial(method, **settings)
            self._recordings[kind] = Recording(function, tensors, network.parameters(), self._pool)
        return self._recordings[kind](tensors)


class Recording:
    """A function of tensors as a CUDA graph, and its gradient for the parameters that need one as another."""

    def __init__(
        self, function: Callable[..., Any], tensors: Sequence[Tensor], parameters: Iterable[nn.Parameter], pool: Any
    ) -> None:
        """
        Args:
            tensors: examples of its arguments; they need no gradient.
            parameters: of the network that the function calls.
            pool: memory that recordings share, of which only one is between its function and its gradient at a time.
        """
        self.inputs = [tensor.clone() for tensor in tensors]
        self.parameters = [p for p in parameters if p.requires_grad] if torch.is_grad_enabled() else []
        self.graph, self.gradient_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):  # loaders' threads go on
            result = function(*self.inputs)
        self.outputs, self.structure = tree_flatten(result)
        self.output_gradients = [torch.empty_like(output) for output in self.outputs if output.requires_grad]
        self.gradients: Sequence[Tensor | None] = ()
        if self.output_gradients:
            with torch.cuda.graph(self.gradient_graph, pool=pool, capture_error_mode="thread_local"):
                self.gradients = torch.autograd.grad(
                    [output for output in self.outputs if output.requires_grad],
                    self.parameters,
                    self.output_gradients,
                    allow_unused=True,
                )

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        for mine, given in zip(self.inputs, tensors, strict=True):
            mine.copy_(given)
        return tree_unflatten(list(Replay.apply(self, *self.parameters)), self.structure)


class Replay(torch.autograd.Function):
    """Puts a recording into autograd's graph, as a function of the parameters."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.recording = recording
        recording.graph.replay()
        outputs = tuple(output.detach() for output in recording.outputs)
        ctx.mark_non_differentiable(
            *(mine for mine, output in zip(outputs, recording.outputs, strict=True) if not output.requires_grad)
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recording = ctx.recording
        needed = [given for given, output in zip(gradients, recording.outputs, strict=True) if output.requires_grad]
        for mine, given in zip(recording.output_gradients, needed, strict=True):
            mine.copy_(given)
        recording.gradient_graph.replay()
        return None, *(None if gradient is None else gradient.detach() for gradient in recording.gradients)
