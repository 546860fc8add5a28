"""Reading checkpoints: what is asked for, and not the history of the thread."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol

from interlock import Record
from interlock.adapters.calls import Steps, call
from interlock.adapters.langgraph.keys import Place, prefix, read_packed, unpacked
from interlock.adapters.langgraph.storing import config_of, loaded, place_of

_AT_ONCE = 16  # checkpoints, or pages of the index, in one read
_ATTEMPTS = 100  # at the newest checkpoint, while others remove it


class Ref(NamedTuple):
    """A checkpoint by name."""

    place: Place
    id: str


def get_tuple(serde: SerializerProtocol, config: RunnableConfig) -> Steps:
    """Return the checkpoint that a config names, or the newest; None where there is none."""
    place, named = place_of(config), config["configurable"].get("checkpoint_id")
    for _ in range(_ATTEMPTS):
        id = named or (yield from _newest(place))
        found = (yield from read(serde, [Ref(place, id)])) if id else []
        if found or named or not id:
            break
    return found[0] if found else None


def read(
    serde: SerializerProtocol,
    refs: Sequence[Ref],
    wanted: Mapping[str, Any] | None = None,
    channels: Collection[str] | None = None,
) -> Steps:
    """Return those of `refs` that are there and whose metadata are as `wanted`, in order.

    `channels`: those whose values are read (None: all).
    """
    keys = {ref: ref.place.checkpoint(ref.id) for ref in refs}
    kept, before = yield from read_packed(keys.values())
    checkpoints, metadata = {}, {}
    for ref, key in keys.items():
        if kept[key] is not None:
            about = loaded(serde, kept[key]["metadata"])
            if all(about.get(name) == value for name, value in (wanted or {}).items()):
                metadata[ref] = about
                checkpoints[ref] = loaded(serde, kept[key]["checkpoint"])
    blobs = {
        (ref, name): ref.place.blob(name, version)
        for ref, checkpoint in checkpoints.items()
        for name, version in checkpoint["channel_versions"].items()
        if channels is None or name in channels
    }
    pending = {}
    for ref in checkpoints:
        scanned = yield call("scan", ref.place.writes(ref.id))
        pending[ref] = _pending(serde, scanned)
    stored, after = yield from read_packed(dict.fromkeys(blobs.values()), keys.values())
    found = []
    for ref, checkpoint in checkpoints.items():
        key = keys[ref]
        if before[key].version != after[key].version:
            continue  # it was removed meanwhile, perhaps with its values
        values = {
            name: loaded(serde, stored[blob])
            for (of, name), blob in blobs.items()
            if of == ref and stored[blob] is not None
        }
        parent = kept[key]["parent"]
        found.append(
            CheckpointTuple(
                config_of(*ref),
                {**checkpoint, "channel_values": values},  # type: ignore[typeddict-item]  # as it was put
                metadata[ref],
                config_of(ref.place, parent) if parent else None,
                pending[ref],
            )
        )
    return found


def history(serde: SerializerProtocol, config: RunnableConfig, channels: Sequence[str]) -> Steps:
    """Return what each channel was written along the parents, back to where its value is kept."""
    writes: dict[str, list[Any]] = {name: [] for name in channels}
    seeds: dict[str, Any] = {}
    remaining = set(channels)
    place, id = place_of(config), config["configurable"].get("checkpoint_id")
    if channels and (id := id or (yield from _newest(place))):
        found = yield from read(serde, [Ref(place, id)], channels=())
        while remaining and found and found[0].parent_config is not None:
            parent = found[0].parent_config["configurable"]["checkpoint_id"]
            found = yield from read(serde, [Ref(place, parent)], channels=remaining)
            for step in found:
                for write in reversed(step.pending_writes):
                    if write[1] in remaining:
                        writes[write[1]].append(write)
                kept = step.checkpoint["channel_values"]
                seeds |= {name: kept[name] for name in remaining if name in kept}
            remaining -= seeds.keys()
    told: dict[str, DeltaChannelHistory] = {}
    for name in channels:
        told[name] = {"writes": writes[name][::-1]}
        if name in seeds:
            told[name]["seed"] = seeds[name]
    return told


class Listing:
    """The checkpoints that `list` asks for, newest first, a batch at a time."""

    def __init__(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> None:
        self._serde = serde
        self._config = config
        self._filter = filter
        self._before = before["configurable"].get("checkpoint_id") if before else None
        self._left = limit
        self._refs: list[Ref] | None = None
        self._older: list[str] = []
        self._place: Place | None = None

    def batch(self) -> Steps:
        """Return the next checkpoints; an empty list where there are no more."""
        while self._left is None or self._left > 0:
            if self._refs is None:
                self._refs = yield from self._first()
            while not self._refs and self._older:
                self._refs = yield from self._page()
            if not self._refs:
                break
            size = _AT_ONCE if self._left is None or self._filter else min(self._left, _AT_ONCE)
            asked, self._refs = self._refs[:size], self._refs[size:]
            found: list[CheckpointTuple] = yield from read(self._serde, asked, self._filter)
            if self._left is not None:
                found = found[: self._left]
                self._left -= len(found)
            if found:
                return found
        return []

    def _first(self) -> Steps:
        """Begin: with the newest page of one namespace, or with all there is of several."""
        conf = self._config["configurable"] if self._config else {}
        if named := conf.get("checkpoint_id"):
            return self._before_only([Ref(place_of(self._config), named)])  # type: ignore[arg-type]  # it has one
        thread, ns = conf.get("thread_id"), conf.get("checkpoint_ns")
        if thread is not None and ns is not None:
            self._place = Place(str(thread), ns)
            head = yield call("read", self._place.head)
            if not head.exists:
                return []
            self._older = [self._place.page(n) for n in reversed(range(head.value["pages"]))]
            return self._before_only(_refs(self._place, head.value["entries"]))
        heads = yield call("scan", prefix("head", None if thread is None else str(thread)))
        refs: list[Ref] = []
        for head in heads.values():
            place = Place(head.value["thread"], head.value["ns"])
            if ns is None or ns == place.ns:
                refs += _refs(place, (yield from entries(head)))
        return self._before_only(sorted(refs, key=lambda ref: ref.id, reverse=True))

    def _page(self) -> Steps:
        assert self._place is not None  # who has older pages has one place
        names, self._older = self._older[:_AT_ONCE], self._older[_AT_ONCE:]
        found = yield call("read_many", names)
        kept = [entry for name in reversed(names) for entry in found[name].value or ()]
        return self._before_only(_refs(self._place, kept))

    def _before_only(self, refs: list[Ref]) -> list[Ref]:
        return [ref for ref in refs if self._before is None or ref.id < self._before]


def entries(head: Record) -> Steps:
    """Return all of the index of a namespace, oldest first."""
    place = Place(head.value["thread"], head.value["ns"])
    names = [place.page(number) for number in range(head.value["pages"])]
    found = (yield call("read_many", names)) if names else {}
    pages = [found[name].value or [] for name in names]
    return [entry for page in (*pages, head.value["entries"]) for entry in page]


def _refs(place: Place, kept: Sequence[Mapping[str, Any]]) -> list[Ref]:
    return [Ref(place, entry["id"]) for entry in reversed(kept)]


def _newest(place: Place) -> Steps:
    head = yield call("read", place.head)
    return head.value["entries"][-1]["id"] if head.exists else None


def _pending(serde: SerializerProtocol, records: Mapping[str, Record]) -> list[Any]:
    """Return what tasks wrote, in the order in which it is applied."""
    found = [
        (writes_sort_key(path, task, int(index)), (task, channel, loaded(serde, (kind, data))))
        for task, index, (channel, kind, data, path, _) in _each(records)
    ]
    return [write for _, write in sorted(found, key=lambda each: each[0])]


def _each(records: Mapping[str, Record]) -> Iterator[tuple[str, str, Any]]:
    for record in records.values():
        if isinstance(record.value, dict):  # not a further piece of a large one
            kept = unpacked(record, records)
            for index, write in kept["writes"].items():
                yield kept["task"], index, write
