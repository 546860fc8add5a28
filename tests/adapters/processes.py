"""Processes that start at one moment, without importing a framework in each of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.processes.writers import SPAWN, together


class Nursery:
    """A process that others are forked from, so that only one imports a framework: that takes
    seconds."""

    def __init__(self) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()

    def together(self, target: Callable[..., None], number: int, *arguments: Any) -> list[Any]:
        """Run `target(*arguments, index, gate, answers)` in processes; return their answers."""
        self._pipe.send((target, number, arguments))
        found: list[Any] = self._pipe.recv()
        return found

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()
        assert self._process.exitcode == 0


def _serve(pipe: Connection) -> None:
    fork = multiprocessing.get_context("fork")
    while True:
        try:
            target, number, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(together(target, number, *arguments, context=fork))
