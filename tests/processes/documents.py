"""Processes that edit shared documents, and are stopped or killed at any step on the disk."""

from __future__ import annotations

import os
import random
import signal
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import interlock
from interlock.files import disk
from tests.processes.writers import Place

PATHS = [f"plans/{n}.md" for n in range(20)]


def seal(lines: list[str]) -> str:
    """Return a text that says of itself how many lines it has, and whether it is whole."""
    body = "".join(f"{line}\n" for line in lines)
    return f"{body}= {len(lines)} {zlib.crc32(body.encode())}\n"


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that was sealed.  Raises AssertionError where it is torn."""
    if not text:
        return []
    *lines, _ = text.splitlines()
    assert seal(lines) == text, f"torn: {text[-200:]!r}"
    return lines


def before_each_step(act: Callable[[str], None]) -> None:
    """Have `act` called before every single step on the disk of this process."""

    def acting(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any) -> Any:
            act(name)
            return step(*arguments)

        return stepped

    for name in disk.STEPS:
        setattr(disk, name, acting(name, getattr(disk, name)))


def struck(
    place: Place, root: Path, what: str, at: int | str, blow: int, answer: Connection
) -> None:
    """Write, make or delete `plan.md`; be struck once before a step: its number or name."""
    steps, due = 0, True

    def count(name: str) -> None:
        nonlocal steps, due
        steps += 1
        if due and at in (steps, name):
            due = False
            os.kill(os.getpid(), blow)

    with interlock.open(place.url, space=place.space, agent="struck") as space:
        files = space.files(root)
        if what == "newer":  # puts nothing in place but its own version
            files._context.opened = True
            before_each_step(count)
            files.update("plan.md", lambda _: "newer\n")
            return
        document = files.read("plan.md")
        before_each_step(count)
        try:
            files.delete(document) if what == "delete" else files.write(document, f"{what}\n")
        except interlock.FileConflict:
            answer.send(("refused", steps))
        else:
            answer.send(("written", steps))


def edit_for_ever(place: Place, root: Path, name: str, seed: int, pipe: Connection) -> None:
    """Edit documents until killed; say what was acknowledged, what was refused, when it stops."""
    chance = random.Random(seed)

    def maybe_stop(name: str) -> None:
        if chance.random() < 0.0005:
            pipe.send(("stopped", "", ""))
            os.kill(os.getpid(), signal.SIGSTOP)

    before_each_step(maybe_stop)
    space = interlock.open(place.url, space=place.space, agent=name)
    files = space.files(root, "plans/*")
    number = 0
    while True:
        number += 1
        _edit(files, chance, f"{name}:{number}", pipe)


def _edit(files: interlock.Files, chance: random.Random, item: str, pipe: Connection) -> None:
    path = PATHS[min(chance.randrange(20), chance.randrange(20))]  # some are edited more often
    kind = chance.choice(["update", "write", "publish"])
    if kind == "update":

        def think(text: str) -> str:
            return seal([*lines_of(text), item])

        turns = chance.choice(["never", "never", "never", "auto"])
        files.update(path, think, attempts=1000, turns=turns)
        pipe.send(("kept", path, item))
        return
    others = [] if kind == "write" else [each for each in chance.sample(PATHS, 2) if each != path]
    documents = [files.read(each) for each in (path, *others)]
    texts = {each: seal([*lines_of(each.text), item]) for each in documents}
    try:
        if others:
            files.publish(texts)
        else:
            files.write(documents[0], texts[documents[0]])
    except (interlock.FileConflict, interlock.Held):  # Held: whose turn it is has lost one to such
        pipe.send(("refused", path, item))
    else:
        for document in documents:
            pipe.send(("kept", document.path, item))
