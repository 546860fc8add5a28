"""Processes that start at one moment, without importing a framework in each of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

SPAWN = multiprocessing.get_context("spawn")


def together(target: Callable[..., None], number: int, *arguments: Any) -> list[Any]:
    """Run `target(*arguments, index, gate, answers)` in processes; return their answers.

    They are forked from one process that has imported what `target` needs: that takes seconds.
    """
    heard, sent = SPAWN.Pipe(duplex=False)
    parent = SPAWN.Process(target=_fork, args=(target, number, arguments, sent))
    parent.start()
    sent.close()
    found: list[Any] = heard.recv()
    parent.join()
    assert parent.exitcode == 0
    return found


def _fork(
    target: Callable[..., None], number: int, arguments: tuple[Any, ...], sent: Connection
) -> None:
    fork = multiprocessing.get_context("fork")
    gate, answers = fork.Barrier(number), fork.SimpleQueue()
    children = [
        fork.Process(target=target, args=(*arguments, index, gate, answers))
        for index in range(number)
    ]
    for child in children:
        child.start()
    found = [answers.get() for _ in children]
    for child in children:
        child.join()
        assert child.exitcode == 0
    sent.send(found)
