"""What is replayed is what runs as written. Only a GPU replays; which calls are recorded is decided without one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from prompt_das.adaptation.mean_teacher import make_teacher
from prompt_das.adaptation.pseudo_labels import PseudoLabeler
from prompt_das.data.build import SampleStream, get_slices
from prompt_das.data.dataset_mapper import SourceMapper, TargetMapper
from prompt_das.data.slices import read_labels
from prompt_das.data.sparse_points import sample_dataset_points
from prompt_das.modeling import PromptDAS, cuda_graphs
from prompt_das.modeling.cuda_graphs import CALLS_BEFORE, MOST_RECORDINGS, CudaGraphs

import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


class Network(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def double(self, x: Tensor, *, plus: int = 0) -> Tensor:
        self.written += 1
        return 2 * x + plus


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Size, ...]]:
    """The shapes of each recording, which runs as written when it is replayed."""
    made: list[tuple[torch.Size, ...]] = []

    class Recording:
        def __init__(self, function: Callable, tensors: Sequence[Tensor], parameters: Any, pool: Any) -> None:
            made.append(tuple(tensor.shape for tensor in tensors))
            self.function = function

        def __call__(self, tensors: Sequence[Tensor]) -> Any:
            return self.function(*tensors)

    monkeypatch.setattr(cuda_graphs, "Recording", Recording)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    return made


def call(graphs: CudaGraphs, network: Network, *sizes: int, **settings: int) -> None:
    with FakeTensorMode():
        for size in sizes:
            graphs(network.double, torch.empty(size, device="cuda"), **settings)


def test_what_comes_again_and_again_is_recorded_once_a_kind(recordings: list) -> None:
    graphs, network = CudaGraphs(), Network()
    call(graphs, network, *[3] * CALLS_BEFORE)
    assert recordings == []
    call(graphs, network, 3, 3, 3, 4)
    assert recordings == [((3,),)]
    call(graphs, network, *[4] * CALLS_BEFORE, plus=1)  # other settings
    with torch.no_grad():
        call(graphs, network, *[4] * CALLS_BEFORE)
    call(graphs, network.eval(), *[3] * CALLS_BEFORE)
    assert len(recordings) == 1
    call(graphs, network.train(), *[4] * CALLS_BEFORE)
    assert recordings == [((3,),), ((4,),)]


def test_recordings_are_bounded_and_the_rest_runs_as_written(recordings: list) -> None:
    graphs, network = CudaGraphs(), Network()
    call(graphs, network, *(size for size in range(MOST_RECORDINGS + 5) for _ in range(CALLS_BEFORE + 1)))
    assert len(recordings) == MOST_RECORDINGS
    assert network.written == (MOST_RECORDINGS + 5) * (CALLS_BEFORE + 1)


def test_nothing_is_recorded_on_a_cpu_in_several_processes_or_where_it_is_switched_off(
    recordings: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, network = CudaGraphs(), Network()
    for _ in range(CALLS_BEFORE + 1):
        torch.testing.assert_close(graphs(network.double, torch.ones(2), plus=1), torch.tensor([3.0, 3.0]))
    call(CudaGraphs(enabled=False), network, *[3] * (CALLS_BEFORE + 1))
    monkeypatch.setattr(cuda_graphs.comm, "get_world_size", lambda: 2)
    call(graphs, network, *[3] * (CALLS_BEFORE + 1))
    assert recordings == []


def test_a_copy_begins_without_recordings(recordings: list) -> None:
    graphs, network = CudaGraphs(), Network()
    call(graphs, network, *[3] * (CALLS_BEFORE + 1))
    call(copy.deepcopy(graphs), network, *[3] * CALLS_BEFORE)
    assert len(recordings) == 1
    assert not copy.deepcopy(CudaGraphs(enabled=False)).enabled


def test_the_config_switches_them(tiny_cfg: CfgNode) -> None:
    assert not PromptDAS(tiny_cfg).graphs.enabled
    tiny_cfg.MODEL.CUDA_GRAPHS = True
    assert PromptDAS(tiny_cfg).graphs.enabled
    tiny_cfg.MODEL.COMPILE = "eager"
    assert not PromptDAS(tiny_cfg).graphs.enabled


# ---- on a GPU


def streams(cfg: CfgNode) -> tuple[SampleStream, SampleStream]:
    source, target = (get_slices((f"synthetic_{domain}_train",)) for domain in ("source", "target"))
    points = {"synthetic_target_train": sample_dataset_points(target, 0.5, 0, read_labels)}
    return SampleStream(source, SourceMapper(cfg), (0, 0)), SampleStream(target, TargetMapper(cfg, points), (0, 1))


@pytest.mark.gpu
@pytest.mark.usefixtures("synthetic_data")
@pytest.mark.parametrize("contrastive", [True, False])
def test_replayed_labels_losses_and_gradients_are_those_of_the_network_as_written(
    tiny_cfg: CfgNode, contrastive: bool
) -> None:
    tiny_cfg.DOMAIN_ADAPT.USE_CONTRASTIVE = contrastive
    tiny_cfg.MODEL.DEVICE = "cuda"
    tiny_cfg.MODEL.CUDA_GRAPHS = True
    source, target = streams(tiny_cfg)
    torch.manual_seed(0)
    student = PromptDAS(tiny_cfg).cuda().train()
    plain = copy.deepcopy(student)
    plain.graphs.enabled = False
    networks = {"plain": plain, "replayed": student}
    labelers, optimizers = {}, {}
    for name, network in networks.items():
        labelers[name] = PseudoLabeler(tiny_cfg, make_teacher(network), lambda metrics: None, iteration=lambda: 10)
        optimizers[name] = torch.optim.SGD(network.parameters(), 0.01)

    for i in range(3 * (CALLS_BEFORE + 1)):
        losses, gradients = {}, {}
        for name, network in networks.items():
            batch = [source[2 * i], source[2 * i + 1], *labelers[name]([target[2 * i], target[2 * i + 1]])]
            losses[name] = network(batch)
            optimizers[name].zero_grad()
            torch.stack(list(losses[name].values())).sum().backward()
            gradients[name] = {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None}
            optimizers[name].step()
        torch.testing.assert_close(losses["replayed"], losses["plain"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients["replayed"], gradients["plain"], rtol=1e-3, atol=1e-5)
    assert student.graphs._recordings
    assert labelers["replayed"].graphs._recordings
    assert not plain.graphs._recordings
