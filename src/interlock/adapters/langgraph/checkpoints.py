"""Checkpoints and the writes on top of them: each put is one commit, checked with all it stands on.

A put names the run that works on the thread and the checkpoint that it follows.  If the thread
is another run's, if that run was replaced, if the parent was removed, or if something else
already follows the parent, the store refuses the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import RESUME

from interlock import (
    AsyncSpace,
    Committed,
    Conflict,
    Fenced,
    Held,
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
)
from interlock.adapters.langgraph.recent import Recent
from interlock.adapters.langgraph.refusals import Overtaken, of_thread
from interlock.adapters.langgraph.stored import Indexed, Stored, config_of, dumped, loaded, place_of
from interlock.adapters.space import Write, as_written, commit

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


def _small(value: object) -> bool:
    """Whether a value is kept in each checkpoint, and not under a key of its own."""
    return value is None or isinstance(value, bool | int | float) or value == ""


async def put(
    space: AsyncSpace,
    serde: SerializerProtocol,
    recent: Recent[Stored],
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
    values = rest["channel_values"]
    rest["channel_values"] = inline = {name: each for name, each in values.items() if _small(each)}
    kept = {
        "id": id,
        "parent": parent,
        "checkpoint": dumped(serde, rest),
        "metadata": dumped(serde, full),
    }
    blobs = {
        place.blob(name, version): dumped(serde, values[name])
        for name, version in new_versions.items()
        if name in values and name not in inline
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
        with of_thread(place.thread, parent):
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
    recent: Recent[Stored],
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
        keys = [fence, key, *([once] if once else [])]
        remembered = recent.records(place, keys, key)
        with of_thread(place.thread, conf["checkpoint_id"]):
            made = await _committed(space, config, keys, decided, None, {}, remembered)
        recent.add(place, made)
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
    for attempt in range(1, _ATTEMPTS + 1):
        found, remembered = remembered or await space.read_many(list(dict.fromkeys(keys))), None
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
    keys = {written.key for written in committed.writes} & values.keys() & records.keys()
    return {**records, **{key: as_written(records[key], values[key], committed) for key in keys}}


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
