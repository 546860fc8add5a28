"""Checkpoints as they are kept, and reading them: what is asked for, and not the whole thread."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from interlock import AsyncSpace, Json, Record
from interlock.adapters.langgraph.keys import Place, prefix, read_packed, unpacked
from interlock.adapters.langgraph.recent import Newest, Recent

_AT_ONCE = 16  # checkpoints, or pages of the index, in one read
_ATTEMPTS = 100  # at the newest checkpoint, while others remove it


class Indexed(TypedDict):
    """A checkpoint in the index of its namespace."""

    id: str
    run_id: str | None
    epoch: int | None


def place_of(config: RunnableConfig) -> Place:
    """Return the thread and namespace that a config names."""
    conf = config["configurable"]
    return Place(str(conf["thread_id"]), str(conf.get("checkpoint_ns") or ""))


def config_of(place: Place, id: str) -> RunnableConfig:
    """Return the config that names a checkpoint."""
    names = {"thread_id": place.thread, "checkpoint_ns": place.ns, "checkpoint_id": id}
    return {"configurable": names}


def dumped(serde: SerializerProtocol, value: object) -> list[str]:
    """Return a value as a type and text, as it is kept in JSON."""
    kind, data = serde.dumps_typed(value)
    return [kind, base64.b64encode(data).decode()]


def loaded(serde: SerializerProtocol, kept: Sequence[str]) -> Any:
    """Return the value that is kept as `kept`."""
    return serde.loads_typed((kept[0], base64.b64decode(kept[1])))


class Ref(NamedTuple):
    """A checkpoint by name."""

    place: Place
    id: str


class Stored(NamedTuple):
    """A checkpoint as it is kept: serialized, with its channels' values and what tasks wrote."""

    ref: Ref
    parent: str | None
    checkpoint: Sequence[str]
    metadata: Sequence[str]
    values: Mapping[str, Sequence[str]]
    writes: Mapping[str, Record]

    @property
    def size(self) -> int:
        """How many characters its values have."""
        written = sum(len(record.body or "") for record in self.writes.values())
        return written + sum(len(data) for _, data in self.values.values())

    def load(self, serde: SerializerProtocol) -> CheckpointTuple:
        """Return it as LangGraph wants it: everything in it is new."""
        checkpoint = loaded(serde, self.checkpoint)
        values = {name: loaded(serde, value) for name, value in self.values.items()}
        return CheckpointTuple(
            config_of(*self.ref),
            {**checkpoint, "channel_values": checkpoint.get("channel_values", {}) | values},  # type: ignore[typeddict-item]  # as it was put
            loaded(serde, self.metadata),
            config_of(self.ref.place, self.parent) if self.parent else None,
            _pending(serde, self.writes),
        )


async def get_tuple(
    space: AsyncSpace, serde: SerializerProtocol, recent: Recent[Stored], config: RunnableConfig
) -> CheckpointTuple | None:
    """Return the checkpoint that a config names, or the newest; None if there is none."""
    place, named = place_of(config), config["configurable"].get("checkpoint_id")
    if named:
        found = await fetch(space, serde, [Ref(place, named)])
        return found[0].load(serde) if found else None
    position = (await space.position()) if place in recent else None
    newest = recent.newest(place)
    if newest is not None and newest.position == position:
        return newest.stored.load(serde)
    for _ in range(_ATTEMPTS):
        head = await space.read(place.head)
        if not head.exists:
            break
        records = {place.head: head}
        if found := await fetch(space, serde, [Ref(place, _last(head))], records=records):
            kept = None if position is None else Newest(position, found[0])
            recent.remember(place, records | dict(found[0].writes), kept)
            return found[0].load(serde)
    return None


async def read(
    space: AsyncSpace,
    serde: SerializerProtocol,
    refs: Sequence[Ref],
    wanted: Mapping[str, Json] | None = None,
    channels: Collection[str] | None = None,
) -> list[CheckpointTuple]:
    """Return those of `refs` that are there and whose metadata are as `wanted`, in order.

    `channels`: those whose values are read (None: all).
    """
    return [each.load(serde) for each in await fetch(space, serde, refs, wanted, channels)]


async def fetch(
    space: AsyncSpace,
    serde: SerializerProtocol,
    refs: Sequence[Ref],
    wanted: Mapping[str, Json] | None = None,
    channels: Collection[str] | None = None,
    records: dict[str, Record] | None = None,
) -> list[Stored]:
    """Read what `read` returns.  `records` is given those of the checkpoints."""
    keys = {ref: ref.place.checkpoint(ref.id) for ref in refs}
    kept, before = await read_packed(space, keys.values())
    blobs: dict[Ref, dict[str, str]] = {}
    for ref, key in keys.items():
        if kept[key] is None or not _as_wanted(serde, kept[key], wanted):
            continue
        checkpoint = loaded(serde, kept[key]["checkpoint"])
        inline = checkpoint.get("channel_values", {})
        blobs[ref] = {
            name: ref.place.blob(name, version)
            for name, version in checkpoint["channel_versions"].items()
            if name not in inline and (channels is None or name in channels)
        }
    writes = {ref: await space.scan(ref.place.writes(ref.id)) for ref in blobs}
    asked = dict.fromkeys(blob for names in blobs.values() for blob in names.values())
    stored, after = await read_packed(space, asked, keys.values())
    if records is not None:
        records.update({key: after[key] for key in keys.values() if key in after})
    found = []
    for ref, names in blobs.items():
        key = keys[ref]
        if before[key].version == after[key].version:  # not removed meanwhile, with its values
            about, values = kept[key], {name: stored[blob] for name, blob in names.items()}
            there = {name: value for name, value in values.items() if value is not None}
            parts = (about["parent"], about["checkpoint"], about["metadata"], there, writes[ref])
            found.append(Stored(ref, *parts))
    return found


def _as_wanted(serde: SerializerProtocol, kept: Json, wanted: Mapping[str, Json] | None) -> bool:
    about = loaded(serde, kept["metadata"]) if wanted else {}
    return all(about.get(name) == value for name, value in (wanted or {}).items())


async def history(
    space: AsyncSpace, serde: SerializerProtocol, config: RunnableConfig, channels: Sequence[str]
) -> dict[str, DeltaChannelHistory]:
    """Return what each channel was written along the parents, back to where its value is kept."""
    writes: dict[str, list[PendingWrite]] = {name: [] for name in channels}
    seeds: dict[str, object] = {}
    remaining = set(channels)
    place, id = place_of(config), config["configurable"].get("checkpoint_id")
    if channels and (id := id or (await _newest(space, place))):
        found = await read(space, serde, [Ref(place, id)], channels=())
        while remaining and found and found[0].parent_config is not None:
            parent = found[0].parent_config["configurable"]["checkpoint_id"]
            found = await read(space, serde, [Ref(place, parent)], channels=remaining)
            for step in found:
                for write in reversed(step.pending_writes or ()):
                    if write[1] in remaining:
                        writes[write[1]].append(write)
                kept = step.checkpoint["channel_values"]
                seeds |= {name: kept[name] for name in remaining if name in kept}
            remaining -= seeds.keys()
    answer: dict[str, DeltaChannelHistory] = {}
    for name in channels:
        answer[name] = {"writes": writes[name][::-1]}
        if name in seeds:
            answer[name]["seed"] = seeds[name]
    return answer


class Listing:
    """The checkpoints that `list` asks for, newest first, a batch at a time."""

    def __init__(
        self,
        space: AsyncSpace,
        serde: SerializerProtocol,
        config: RunnableConfig | None,
        filter: Mapping[str, Json] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> None:
        self._space = space
        self._serde = serde
        self._config = config
        self._filter = filter
        self._before = before["configurable"].get("checkpoint_id") if before else None
        self._left = limit
        self._refs: list[Ref] | None = None
        self._older: list[str] = []
        self._place: Place | None = None

    async def batch(self) -> list[CheckpointTuple]:
        """Return the next checkpoints; an empty list if there are no more."""
        while self._left is None or self._left > 0:
            if self._refs is None:
                self._refs = await self._first()
            while not self._refs and self._older:
                self._refs = await self._page()
            if not self._refs:
                break
            size = _AT_ONCE if self._left is None or self._filter else min(self._left, _AT_ONCE)
            asked, self._refs = self._refs[:size], self._refs[size:]
            found = await read(self._space, self._serde, asked, self._filter)
            if self._left is not None:
                found = found[: self._left]
                self._left -= len(found)
            if found:
                return found
        return []

    async def _first(self) -> list[Ref]:
        """Begin: with the newest page of one namespace, or with all there is of several."""
        conf = self._config["configurable"] if self._config else {}
        if named := conf.get("checkpoint_id"):
            return self._before_only([Ref(place_of(self._config), named)])  # type: ignore[arg-type]  # it has one
        thread, ns = conf.get("thread_id"), conf.get("checkpoint_ns")
        if thread is not None and ns is not None:
            self._place = Place(str(thread), ns)
            head = await self._space.read(self._place.head)
            if not head.exists:
                return []
            self._older = [self._place.page(n) for n in reversed(range(head.value["pages"]))]
            return self._before_only(_refs(self._place, head.value["entries"]))
        heads = await self._space.scan(prefix("head", None if thread is None else str(thread)))
        refs: list[Ref] = []
        for head in heads.values():
            place = Place(head.value["thread"], head.value["ns"])
            if ns is None or ns == place.ns:
                refs += _refs(place, (await entries(self._space, head)))
        return self._before_only(sorted(refs, key=lambda ref: ref.id, reverse=True))

    async def _page(self) -> list[Ref]:
        assert self._place is not None  # who has older pages has one place
        names, self._older = self._older[:_AT_ONCE], self._older[_AT_ONCE:]
        found = await self._space.read_many(names)
        kept = [entry for name in reversed(names) for entry in found[name].value or ()]
        return self._before_only(_refs(self._place, kept))

    def _before_only(self, refs: list[Ref]) -> list[Ref]:
        return [ref for ref in refs if self._before is None or ref.id < self._before]


async def entries(space: AsyncSpace, head: Record) -> list[Indexed]:
    """Return all of the index of a namespace, oldest first."""
    place = Place(head.value["thread"], head.value["ns"])
    names = [place.page(number) for number in range(head.value["pages"])]
    found = (await space.read_many(names)) if names else {}
    pages = [found[name].value or [] for name in names]
    return [entry for page in (*pages, head.value["entries"]) for entry in page]


def _refs(place: Place, kept: Sequence[Indexed]) -> list[Ref]:
    return [Ref(place, entry["id"]) for entry in reversed(kept)]


async def _newest(space: AsyncSpace, place: Place) -> str | None:
    head = await space.read(place.head)
    return _last(head) if head.exists else None


def _last(head: Record) -> str:
    id: str = head.value["entries"][-1]["id"]
    return id


def _pending(serde: SerializerProtocol, records: Mapping[str, Record]) -> list[PendingWrite]:
    """Return what tasks wrote, in the order in which it is applied."""
    found = [
        (writes_sort_key(path, task, int(index)), (task, channel, loaded(serde, (kind, data))))
        for task, index, (channel, kind, data, path, _) in _each(records)
    ]
    return [write for _, write in sorted(found, key=lambda each: each[0])]


def _each(records: Mapping[str, Record]) -> Iterator[tuple[str, str, Json]]:
    for record in records.values():
        if isinstance(record.value, dict):  # not a further piece of a large one
            kept = unpacked(record, records)
            for index, write in kept["writes"].items():
                yield kept["task"], index, write
