"""The keys of a checkpointer, and values larger than one key holds.

    langgraph/run/<thread>                            who works on the thread: the run's lease
    langgraph/head/<thread>/<ns>                      the newest checkpoints, in commit order
    langgraph/page/<thread>/<ns>/<number>             the older ones, 8 to a page
    langgraph/checkpoint/<thread>/<ns>/<id>           a checkpoint without the values of channels
    langgraph/blob/<thread>/<ns>/<channel>/<version>  the value of a channel, once per version
    langgraph/writes/<thread>/<ns>/<id>/<task>        what a task wrote on top of a checkpoint
    langgraph/next/<thread>/<id>                      which checkpoint follows that one
    langgraph/once/<thread>/<key>                     an input that must count once
    langgraph/run-id/<run id>/<thread>                which threads a run id is in

`<ns>` is the namespace of a subgraph.  Ids are quoted, and hashed if they are long; an empty one
is `%`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from interlock import AsyncSpace, Json, Record
from interlock.adapters.space import quoted

ROOT = "langgraph"
OF_A_THREAD = ("head", "page", "checkpoint", "blob", "writes", "next", "once")
PIECE = 400_000  # characters of JSON in one key; quoting may double them
_LONGEST = 64  # characters of a segment that is not hashed


class Place(NamedTuple):
    """A thread and one of its namespaces; the root namespace is the empty text."""

    thread: str
    ns: str

    @property
    def _within(self) -> str:
        return f"{segment(self.thread)}/{segment(self.ns)}"

    @property
    def head(self) -> str:
        """The key of the newest checkpoints."""
        return f"{ROOT}/head/{self._within}"

    @property
    def pages(self) -> str:
        """The prefix of the older checkpoints."""
        return f"{ROOT}/page/{self._within}/"

    def page(self, number: int) -> str:
        """Return the key of a page of older checkpoints."""
        return f"{self.pages}{number}"

    def checkpoint(self, id: str) -> str:
        """Return the key of a checkpoint."""
        return f"{ROOT}/checkpoint/{self._within}/{segment(id)}"

    def blob(self, channel: str, version: object) -> str:
        """Return the key of a version of a channel."""
        return f"{ROOT}/blob/{self._within}/{segment(channel)}/{segment(str(version))}"

    def writes(self, id: str) -> str:
        """Return the prefix of what was written on top of a checkpoint."""
        return f"{ROOT}/writes/{self._within}/{segment(id)}/"


@lru_cache(maxsize=4096)
def segment(text: str) -> str:
    """Return a segment of a key that stands for `text`, and for no other one."""
    return quoted(text, _LONGEST)


def prefix(kind: str, thread: str | None = None) -> str:
    """Return the prefix of one kind of keys, of all threads (None) or of one."""
    return f"{ROOT}/{kind}/" if thread is None else f"{ROOT}/{kind}/{segment(thread)}/"


def run_key(thread: str) -> str:
    """Return the key of the run that works on a thread."""
    return f"{ROOT}/run/{segment(thread)}"


def next_key(thread: str, id: str | None) -> str:
    """Return the key of what follows a checkpoint (None: of the first one)."""
    return f"{ROOT}/next/{segment(thread)}/{segment(id or '')}"


def once_key(thread: str, key: str) -> str:
    """Return the key of an input that must count once."""
    return f"{ROOT}/once/{segment(thread)}/{segment(key)}"


def run_id_key(run_id: str, thread: str) -> str:
    """Return the key that says that a thread holds checkpoints of a run id."""
    return f"{ROOT}/run-id/{segment(run_id)}/{segment(thread)}"


def packed(key: str, value: Json) -> Iterator[tuple[str, Json]]:
    """Yield the keys and values that keep `value`: one, or several if it is large."""
    if _length(value) <= PIECE:
        yield key, value
        return
    text = json.dumps(value)
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    yield key, {"pieces": len(pieces), "text": pieces[0]}
    for number, piece in enumerate(pieces[1:], start=1):
        yield f"{key}/{number}", piece


def _length(value: Json) -> int:
    """Return about how long the JSON of a value is, of which nearly all is base64."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + _length(each) for name, each in value.items())
    return sum(map(_length, value)) if isinstance(value, list) else 8


def pieces_of(records: Iterable[Record]) -> list[str]:
    """Return the keys that hold the rest of values that are kept in several."""
    return [f"{record.key}/{number}" for record in records for number in range(1, _pieces(record))]


def unpacked(record: Record, others: Mapping[str, Record]) -> Json:
    """Return the value that begins in `record`; None if it, or a piece of it, is not there."""
    count = _pieces(record)
    if not count:
        return record.value
    rest = [others.get(key) for key in pieces_of([record])]
    if not all(piece is not None and piece.exists for piece in rest):
        return None
    return json.loads(
        record.value["text"] + "".join(each.value for each in rest if each is not None)
    )


async def read_packed(
    space: AsyncSpace, keys: Iterable[str], also: Iterable[str] = ()
) -> tuple[dict[str, Json], dict[str, Record]]:
    """Return values by key, and the records of `keys` and `also`."""
    names = list(keys)
    found: dict[str, Record] = {}
    if wanted := [*names, *also]:
        found = await space.read_many(list(dict.fromkeys(wanted)))
    return await completed(space, [found[name] for name in names]), found


async def completed(space: AsyncSpace, records: Sequence[Record]) -> dict[str, Json]:
    """Return the values that begin in `records`, by key; None if there is none."""
    missing = pieces_of(records)
    rest = await space.read_many(missing) if missing else {}
    return {record.key: unpacked(record, rest) for record in records}


def _pieces(record: Record) -> int:
    value = record.value
    return value["pieces"] if isinstance(value, dict) and "pieces" in value else 0
