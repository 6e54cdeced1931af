"""The cache of tensors: never too large, and what was asked for last stays longest."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from prompt_das.inference.interactive.cache import TensorCache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def floats(count: int) -> torch.Tensor:
    return torch.zeros(count)


def test_the_least_recently_used_one_goes() -> None:
    cache = TensorCache(12)
    for key in "abc":
        cache.put(key, floats(1))
    assert cache.get("a") is not None  # "b" is the oldest now
    cache.put("d", floats(1))
    assert [key for key in "abcd" if key in cache] == ["a", "c", "d"]
    assert cache.get("b") is None
    assert (len(cache), cache.nbytes) == (3, 12)


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache = TensorCache(8)
    cache.put("small", floats(1))
    cache.put("large", floats(3))
    assert "large" not in cache
    assert "small" in cache


def test_a_cache_of_nothing() -> None:
    cache = TensorCache(0)
    cache.put("a", floats(1))
    assert (len(cache), cache.nbytes) == (0, 0)
    with pytest.raises(ValueError, match="a cache of -1 bytes"):
        TensorCache(-1)


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.booleans()), max_size=60))
def test_it_does_as_a_list_of_the_latest(max_bytes: int, operations: list[tuple[int, int, bool]]) -> None:
    cache, model = TensorCache(max_bytes), OrderedDict[int, torch.Tensor]()
    for key, count, is_put in operations:
        if not is_put:
            assert cache.get(key) is model.get(key)
            if key in model:
                model.move_to_end(key)
            continue
        tensor = floats(count)
        cache.put(key, tensor)
        model.pop(key, None)
        if tensor.nbytes <= max_bytes:
            model[key] = tensor
        while sum(t.nbytes for t in model.values()) > max_bytes:
            model.popitem(last=False)
        assert cache.nbytes == sum(t.nbytes for t in model.values()) <= max_bytes
        assert [k for k in range(6) if k in cache] == sorted(model)


def test_threads_share_it() -> None:
    cache = TensorCache(400)

    def use(seed: int) -> None:
        for i in range(300):
            cache.put((seed * i) % 17, floats(1 + i % 20))
            cache.get((seed + i) % 17)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(8)))
    assert cache.nbytes == sum(cache.get(key).nbytes for key in range(17) if key in cache) <= 400
