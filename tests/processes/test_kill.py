"""`kill -9` of random writers: what was acknowledged is there, and everything agrees."""

from __future__ import annotations

import os
import random
import signal
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import interlock
from tests.processes.writers import FORKSERVER, disagreements, write_for_ever

ROUNDS, WRITERS, VICTIMS = 50, 8, 3


def test_fifty_rounds_of_kill_9_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    interlock.open(url).close()
    chance = random.Random(20261121)
    running: dict[int, tuple[Any, Any]] = {}
    acknowledged: set[str] = set()
    born = 0
    try:
        for _ in range(ROUNDS):
            while len(running) < WRITERS:
                mine, theirs = FORKSERVER.Pipe(duplex=False)
                arguments = (url, f"w{born}", born, theirs)
                process = FORKSERVER.Process(target=write_for_ever, args=arguments, daemon=True)
                process.start()
                theirs.close()
                running[born] = (process, mine)
                born += 1
            for _ in range(chance.randrange(5, 40)):  # so many acknowledgements, then the kill
                ready: list[Any] = list(wait([pipe for _, pipe in running.values()]))
                acknowledged.update(pipe.recv() for pipe in ready)
            for victim in chance.sample(sorted(running), VICTIMS):
                process, pipe = running.pop(victim)
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                acknowledged |= _rest(pipe)
            with interlock.open(url, agent="supervisor") as space:
                assert space.update("supervisor", lambda n: n + 1, default=0).writer == "supervisor"
    finally:
        for process, pipe in running.values():
            process.kill()
            process.join()
            acknowledged |= _rest(pipe)
    with interlock.open(url) as space:
        assert disagreements(space) == []
        written = _everything_ever_written(space)
        assert space.read("supervisor").value == ROUNDS
    assert len(acknowledged) > ROUNDS
    assert acknowledged <= written


def _rest(pipe: Any) -> set[str]:
    """What a killed writer had acknowledged and nobody had read yet."""
    items = set()
    try:
        while pipe.poll():
            items.add(pipe.recv())
    except (EOFError, OSError):
        pass  # it died in the middle of sending: not acknowledged
    return items


def _everything_ever_written(space: interlock.Space) -> set[str]:
    items: set[str] = set()
    for entry in space.log():
        if isinstance(entry.value, list):
            items.update(entry.value)
        elif isinstance(entry.value, str):
            items.add(entry.value)
    return items
