"""The registry of the stores that a process has open."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from interlock.backends.registry import Registry


def test_borrowers_of_one_key_share_one_store() -> None:
    registry: Registry[list[int]] = Registry()
    one = registry.borrow("a", list)
    assert registry.borrow("a", list) is one
    assert registry.borrow("b", list) is not one
    assert not registry.give_back("a", one)
    assert registry.give_back("a", one)
    assert not registry.give_back("a", one), "there is nothing left to give back"
    assert registry.borrow("a", list) is not one


def test_threads_that_ask_at_once_wait_for_one_store() -> None:
    registry: Registry[object] = Registry()
    gate = threading.Barrier(8)
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    def ask(_: int) -> object:
        gate.wait()
        return registry.borrow("a", make)

    with ThreadPoolExecutor(8) as threads:
        assert len({id(store) for store in threads.map(ask, range(8))}) == 1
    assert len(made) == 1


def test_store_that_cannot_be_made_is_tried_again() -> None:
    registry: Registry[object] = Registry()
    with pytest.raises(ZeroDivisionError):
        registry.borrow("a", lambda: 1 / 0)
    store = registry.borrow("a", object)
    assert registry.give_back("a", store)


def test_forked_child_begins_with_no_stores() -> None:
    registry: Registry[object] = Registry()
    store = registry.borrow("a", object)
    child = os.fork()
    if not child:
        os._exit(0 if registry.borrow("a", object) is not store else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert registry.give_back("a", store)
