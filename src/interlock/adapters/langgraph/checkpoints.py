"""Checkpoints and the writes on top of them: each put is one commit, checked with all it stands on.

A put names the run that works on the thread and the checkpoint that it follows.  If the thread
is another run's, if that run was replaced, if the parent was removed, or if something else
already follows the parent, the store refuses the whole of it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import RESUME

from interlock import (
    AsyncSpace,
    Committed,
    Conflict,
    Fenced,
    Held,
    InterlockError,
    Invalid,
    Json,
    Record,
)
from interlock.adapters.langgraph.call import is_call
from interlock.adapters.langgraph.keys import (
    Place,
    completed,
    next_key,
    packed,
    prefix,
    read_packed,
    run_id_key,
    run_key,
    segment,
    unpacked,
)
from interlock.adapters.langgraph.recent import Newest, Recent
from interlock.adapters.space import Write, commit

# What travels in a run's config; LangGraph hides what has this prefix from streams.
EPOCH, ONCE = "__pregel_interlock_epoch", "__pregel_interlock_once"
RUNNING, ENDED = "running", "ended"
PAGE = 8  # checkpoints in a page of the index
_ATTEMPTS = 100  # at a commit whose keys others move
_NULL_TASK = "00000000-0000-0000-0000-000000000000"  # of what a Command brings
_RUN_SOURCES = ("input", "loop")
_START = "__start__"  # the channel of a graph's input

Decided = Callable[
    [Mapping[str, Record], Mapping[str, Record]], Coroutine[object, None, list[Write]]
]


class Indexed(TypedDict):
    """A checkpoint in the index of its namespace."""

    id: str
    run_id: str | None
    epoch: int | None


class Overtaken(InterlockError):
    """Another run continued the thread after this call's input was stored.  Nothing of the step was
    stored; sending the input again would put it into the thread twice.

    The refusal is the `__cause__`.
    """

    def __init__(self, thread: str) -> None:
        super().__init__(
            f"another run continued thread {thread!r} after this call had stored its input. "
            "Don't send the input again: it is in the thread. Look at graph.get_state(config), or "
            "continue with graph.invoke(None, config). saver.run() prevents this"
        )
        self.thread = thread

    def __reduce__(self) -> tuple[type[Overtaken], tuple[str]]:
        return type(self), (self.thread,)


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


async def put(
    space: AsyncSpace,
    serde: SerializerProtocol,
    recent: Recent,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> RunnableConfig:
    """Store a checkpoint, and the values of the channels that are new."""
    place, id, conf = place_of(config), checkpoint["id"], config["configurable"]
    parent, once = conf.get("checkpoint_id"), conf.get(ONCE)
    full: Any = get_checkpoint_metadata(config, metadata)
    run_id = full.get("run_id")
    rest: dict[str, Json] = {**checkpoint}
    values = rest.pop("channel_values")
    kept = {
        "id": id,
        "parent": parent,
        "checkpoint": dumped(serde, rest),
        "metadata": dumped(serde, full),
    }
    blobs = {
        place.blob(name, version): dumped(serde, values[name])
        for name, version in new_versions.items()
        if name in values
    }
    new = {key: value for name, blob in blobs.items() for key, value in packed(name, blob)}
    follows = _follows(place, config, checkpoint, metadata)
    fence, own = run_key(place.thread), place.checkpoint(id)
    before = place.checkpoint(parent) if parent else None
    by_run_id = run_id_key(str(run_id), place.thread) if run_id else None
    keys = [key for key in (fence, place.head, own, before, by_run_id, once) if key]
    entry: Indexed = {"id": id, "run_id": run_id, "epoch": conf.get(EPOCH)}

    async def decided(found: Mapping[str, Record], present: Mapping[str, Record]) -> list[Write]:
        writes = [_fencing(config, found[fence]), *_begun(config, found)]
        if before:
            writes.append(("expect", _there(found[before])))
        if by_run_id:
            known = found[by_run_id].exists
            writes.append(
                ("expect", found[by_run_id]) if known else ("write", found[by_run_id], place.thread)
            )
        if not found[own].exists:
            writes += _listed(place, found[place.head], entry)
            writes += [("create", follows, id)] if follows else []
        writes += await _over(space, packed(own, kept), found)
        return writes + [("create", key, value) for key, value in new.items() if key not in present]

    try:
        remembered = recent.records(place, keys, own)
        made = await _committed(space, config, keys, decided, follows, new, remembered)
        recent.remember(place, made)
    except (Conflict, Held) as refused:
        # These tell a caller to call again, which is right until its input is in the thread.
        if await _has_input(space, serde, config, metadata):
            raise Overtaken(place.thread) from refused
        raise
    return config_of(place, id)


async def put_writes(
    space: AsyncSpace,
    serde: SerializerProtocol,
    config: RunnableConfig,
    writes: Sequence[tuple[str, object]],
    task_id: str,
    task_path: str,
) -> None:
    """Store what a task wrote on top of a checkpoint; what is there already stays."""
    place, conf = place_of(config), config["configurable"]
    key, fence = place.writes(conf["checkpoint_id"]) + segment(task_id), run_key(place.thread)
    begins = task_id == _NULL_TASK or any(channel == RESUME for channel, _ in writes)
    once = conf.get(ONCE) if begins else None
    kept = [
        (WRITES_IDX_MAP.get(channel, index), [channel, *dumped(serde, value), task_path])
        for index, (channel, value) in enumerate(writes)
    ]

    async def decided(found: Mapping[str, Record], _: Mapping[str, Record]) -> list[Write]:
        values = await completed(space, [found[key]])
        known = values[key]["writes"] if values[key] else {}
        for index, write in kept:
            if index < 0 or str(index) not in known:
                known[str(index)] = [*write, conf.get(EPOCH)]
        made = await _over(space, packed(key, {"task": task_id, "writes": known}), found)
        begun = _begun(config, found) if once else []
        return [_fencing(config, found[fence]), *begun, *made]

    try:
        await _committed(space, config, [fence, key, *([once] if once else [])], decided, None, {})
    except Held as held:
        # What update_state writes comes before the checkpoint that it makes.
        in_a_call = not begins and is_call(config)
        if in_a_call and await _has_input(space, serde, config):
            raise Overtaken(place.thread) from held
        raise


async def _committed(
    space: AsyncSpace,
    config: RunnableConfig,
    keys: Sequence[str],
    decided: Decided,
    follows: str | None,
    new: Mapping[str, Json],
    remembered: Mapping[str, Record] | None = None,
) -> dict[str, Record]:
    """Read, decide, commit; again if something moved that does not concern the run.

    What is `remembered` is tried first.  Returns the records of `keys` afterwards.
    """
    present: dict[str, Record] = {}
    epoch = config["configurable"].get(EPOCH)
    if remembered is not None:
        with suppress(Conflict, Fenced, Held, Invalid):  # what is read will tell
            writes = await decided(remembered, present)
            return _after(remembered, writes, await commit(space, writes))
    for attempt in range(1, _ATTEMPTS + 1):
        found = await space.read_many(list(dict.fromkeys(keys)))
        writes = await decided(found, present)
        try:
            return _after(found, writes, await commit(space, writes))
        except Conflict as conflict:
            if conflict.key == follows or attempt == _ATTEMPTS or _removed(conflict, keys):
                raise
            if conflict.key in new:  # a version is one value: whoever stored it stored this one
                there = await space.read_many(list(new))
                present = {key: record for key, record in there.items() if record.exists}
        except Fenced:
            if epoch is not None or attempt == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _after(
    records: Mapping[str, Record], writes: Iterable[Write], committed: Committed | None
) -> dict[str, Record]:
    """Return records as a commit has left them."""
    assert committed is not None  # a block that did not raise was committed
    values = {args[0].key: args[1] for name, *args in writes if name == "write"}
    made = dict(records)
    for written in committed.writes:
        if written.key in values and written.key in made:
            made[written.key] = made[written.key]._replace(
                value=values[written.key],
                version=written.version,
                epoch=written.epoch,
                writer=committed.agent,
                time_us=committed.time_us,
                position=written.position,
                exists=True,
                body=written.body,
            )
    return made


async def _has_input(
    space: AsyncSpace,
    serde: SerializerProtocol,
    config: RunnableConfig,
    refused: CheckpointMetadata | None = None,
) -> bool:
    """Whether a call that is refused has put its input into the thread; a run's lease says more.

    The input is in a checkpoint of its own first, under `__start__`, and in the state with the next
    one.  If a run brings another input in between, the first one is dropped.
    """
    place, conf = place_of(config), config["configurable"]
    if conf.get(EPOCH) is not None:
        return False
    id = conf.get("checkpoint_map", {}).get("") if place.ns else conf.get("checkpoint_id")
    if not id or (refused is not None and not place.ns and refused.get("source") != "loop"):
        return False
    root = Place(place.thread, "")
    own, after = root.checkpoint(id), next_key(place.thread, id)
    kept, found = await read_packed(space, [own], [after, root.head])
    if kept[own] is None:  # never stored, or removed: with the whole thread, or by a prune
        return bool(found[own].version) and found[root.head].exists
    about = loaded(serde, kept[own]["metadata"])
    if refused is not None and not place.ns and about.get("step") != refused.get("step", 0) - 1:
        return False  # durability="exit": the steps since then are not stored
    checkpoint = loaded(serde, kept[own]["checkpoint"])
    if about.get("source") != "input" or _START not in checkpoint["channel_versions"]:
        return True
    if not found[after].exists:
        return False
    next_own = root.checkpoint(found[after].value)
    others, _ = await read_packed(space, [next_own])
    removed = others[next_own] is None
    return removed or loaded(serde, others[next_own]["metadata"]).get("source") != "input"


def _removed(conflict: Conflict, keys: Sequence[str]) -> bool:
    """Whether a checkpoint that was read is not there any more."""
    return conflict.key.startswith(prefix("checkpoint")) and not conflict.record.exists


def _follows(
    place: Place, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
) -> str | None:
    """Return the key that lets one checkpoint only follow the parent; None if several may.

    Those are forks that the caller asked for by naming a checkpoint, updates from outside, and the
    namespaces of subgraphs.  A first checkpoint follows nothing: the thread was empty.
    """
    parent, source = config["configurable"].get("checkpoint_id"), metadata.get("source")
    if place.ns or (parent and source not in _RUN_SOURCES):
        return None
    if parent:
        named = (config.get("metadata") or {}).get("checkpoint_id")
        return None if named == parent else next_key(place.thread, parent)
    started = checkpoint["channel_versions"] and source in (*_RUN_SOURCES, "update")
    return next_key(place.thread, None) if started else None


def _there(parent: Record) -> Record:
    """Return a parent as it was when the run read it: there."""
    removed = parent.version and not parent.exists
    return parent._replace(version=parent.version - 1) if removed else parent


def _fencing(config: RunnableConfig, run: Record) -> Write:
    """Return what holds a commit to the run of its config.

    Who has none is held back by a run that is alive, and ends one that is not.
    """
    epoch = config["configurable"].get(EPOCH)
    if epoch is not None:
        if run.epoch == epoch and run.value["state"] == ENDED:
            raise Invalid("The run of this config has ended. Start another one with saver.run().")
        return ("expect", run._replace(epoch=epoch))
    if run.exists and run.value["state"] == RUNNING:
        return ("write", run, {**run.value, "state": ENDED})
    return ("expect", run)


def _begun(config: RunnableConfig, found: Mapping[str, Record]) -> list[Write]:
    """Return what notes that the input of a run is in the thread."""
    record = found.get(config["configurable"].get(ONCE, ""))
    return [] if record is None or record.exists else [("write", record, "begun")]


def _listed(place: Place, head: Record, entry: Indexed) -> list[Write]:
    """Return what puts a checkpoint at the end of the index."""
    was: dict[str, Json] = head.value if head.exists else {"pages": 0, "entries": []}
    entries, pages = was["entries"], was["pages"]
    writes: list[Write] = []
    if len(entries) >= PAGE:
        writes.append(("create", place.page(pages), entries))
        entries, pages = [], pages + 1
    value = {**place._asdict(), "pages": pages, "entries": [*entries, entry]}
    return [*writes, ("write", head, value)]


async def _over(
    space: AsyncSpace, pieces: Iterable[tuple[str, Json]], found: Mapping[str, Record]
) -> list[Write]:
    """Return the writes of a value that may be there, in its pieces, already."""
    made = dict(pieces)
    more = [key for key in made if key not in found]
    rest = (await space.read_many(more)) if more else {}
    return [("write", {**found, **rest}[key], value) for key, value in made.items()]


# Reading: what is asked for, and not the history of the thread

_AT_ONCE = 16  # checkpoints, or pages of the index, in one read
_ATTEMPTS = 100  # at the newest checkpoint, while others remove it


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
            {**checkpoint, "channel_values": values},  # type: ignore[typeddict-item]  # as it was put
            loaded(serde, self.metadata),
            config_of(self.ref.place, self.parent) if self.parent else None,
            _pending(serde, self.writes),
        )


async def get_tuple(
    space: AsyncSpace, serde: SerializerProtocol, recent: Recent, config: RunnableConfig
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
            recent.remember(place, records, kept)
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
        versions = loaded(serde, kept[key]["checkpoint"])["channel_versions"]
        blobs[ref] = {
            name: ref.place.blob(name, version)
            for name, version in versions.items()
            if channels is None or name in channels
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
