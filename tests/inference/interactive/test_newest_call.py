"""Only the newest call goes on."""

from __future__ import annotations

import itertools

from prompt_das.inference.interactive.newest_call import NewestCall, Superseded

import pytest


def test_a_newer_call_supersedes_the_one_before() -> None:
    calls = NewestCall()
    first = calls.start()
    calls.check(first)
    second = calls.start()
    assert not calls.is_newest(first)
    with pytest.raises(Superseded):
        calls.check(first)
    calls.check(second)


def test_kinds_that_share_their_numbers_have_different_tickets_and_do_not_end_each_other() -> None:
    numbers = itertools.count(1)
    requests, tasks = NewestCall(numbers), NewestCall(numbers)
    tickets = [requests.start(), tasks.start()]
    assert tickets == [1, 2]
    requests.check(1)
    tasks.check(2)
    assert not tasks.is_newest(1)
