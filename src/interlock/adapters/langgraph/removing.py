"""Removing and copying checkpoints of a thread: what keeps the index goes first, or comes last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from interlock import Conflict, Fenced, Invalid, Record
from interlock.adapters.calls import Steps, call, commit
from interlock.adapters.langgraph.keys import (
    OF_A_THREAD,
    Place,
    next_key,
    pieces_of,
    prefix,
    read_packed,
    run_id_key,
    run_key,
    segment,
)
from interlock.adapters.langgraph.reading import Ref, entries, read
from interlock.adapters.langgraph.storing import ENDED, PAGE, RUNNING, loaded

STRATEGIES = ("keep_latest", "delete")
_MOST_KEYS, _MOST_BYTES = 200, 4_000_000  # in one commit
_ATTEMPTS = 100  # at a thread that others move

# Says which of the checkpoints in an index, oldest first, are to go.
Chosen = Callable[[Place, Sequence[Mapping[str, Any]]], Steps]


def delete_thread(thread: str) -> Steps:
    """Remove all that is kept of a thread; Held while a run works on it."""
    for _ in range(_ATTEMPTS):
        run = yield call("read", run_key(thread))
        heads = yield call("scan", prefix("head", thread))
        run_ids = set()
        for head in heads.values():
            run_ids |= {entry["run_id"] for entry in (yield from entries(head))} - {None}
        known = [run_id_key(str(run_id), thread) for run_id in run_ids]
        named = (yield call("read_many", known)) if known else {}
        first = [*heads.values(), *(record for record in named.values() if record.exists)]
        try:
            if first or run.exists:
                yield commit([_unless_running(run), *(("delete", record) for record in first)])
            for kind in OF_A_THREAD:
                found = yield call("scan", prefix(kind, thread))
                yield from _in_batches(("delete", record) for record in found.values())
        except (Conflict, Fenced):
            continue
        return


def copy_thread(source: str, target: str) -> Steps:
    """Copy all checkpoints of a thread to one that has none."""
    run_ids: set[str] = set()
    for kind in reversed(OF_A_THREAD):  # the index last: until then nothing is seen
        if kind == "once":
            continue  # what the copy is given is new to it
        found = yield call("scan", prefix(kind, source))
        writes = []
        for key, record in found.items():
            value = record.value
            if kind == "head":
                value = {**value, "thread": target}
                run_ids |= {entry["run_id"] for entry in (yield from entries(record))} - {None}
            renamed = prefix(kind, target) + key.removeprefix(prefix(kind, source))
            writes.append(("create", renamed, value))
        if kind == "head":
            known = [run_id_key(str(run_id), target) for run_id in run_ids]
            named = (yield call("read_many", known)) if known else {}
            writes += [("write", each, target) for each in named.values() if not each.exists]
        yield from _in_batches(writes)


def prune(serde: SerializerProtocol, threads: Sequence[str], strategy: str) -> Steps:
    """Remove what is older than the newest checkpoint of each namespace, or everything."""
    if strategy not in STRATEGIES:
        raise Invalid(f"strategy={strategy!r} is not one of {', '.join(STRATEGIES)}")
    for thread in map(str, threads):
        if strategy == "delete":
            yield from delete_thread(thread)
        else:
            yield from remove(serde, thread, lambda place, kept: _older(serde, place, kept))


def delete_for_runs(serde: SerializerProtocol, run_ids: Sequence[str]) -> Steps:
    """Remove the checkpoints that were made under these run ids, in whatever thread."""
    for run_id in map(str, run_ids):
        known = yield call("scan", f"{prefix('run-id')}{segment(run_id)}/")

        def chosen(place: Place, kept: Sequence[Mapping[str, Any]], run_id: str = run_id) -> Steps:
            yield from ()
            return {entry["id"] for entry in kept if str(entry["run_id"]) == run_id}

        for record in known.values():
            yield from remove(serde, record.value, chosen)
        yield from _in_batches(("delete", record) for record in known.values())


def remove(
    serde: SerializerProtocol, thread: str, chosen: Chosen, epoch: int | None = None
) -> Steps:
    """Remove chosen checkpoints with what is kept for them alone; Held while a run works on the
    thread, unless it is that of `epoch`."""
    heads = yield call("scan", prefix("head", thread))
    for head in heads.values():
        place = Place(thread, head.value["ns"])
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                yield from _remove(serde, place, chosen, epoch)
                break
            except (Conflict, Fenced):
                if attempt == _ATTEMPTS or epoch is not None:
                    raise


def _remove(serde: SerializerProtocol, place: Place, chosen: Chosen, epoch: int | None) -> Steps:
    found = yield call("read_many", [run_key(place.thread), place.head])
    run, head = found.values()
    if not head.exists:
        return
    index = yield from entries(head)
    gone = yield from chosen(place, index)
    if not gone:
        return
    writes = [_unless_running(run) if epoch is None else ("expect", run._replace(epoch=epoch))]
    writes += yield from _reindexed(place, head, [e for e in index if e["id"] not in gone])
    keys = {entry["id"]: place.checkpoint(entry["id"]) for entry in index}
    kept, records = yield from read_packed(keys.values())
    followed = [next_key(place.thread, id) for id in gone] if not place.ns else []
    if not place.ns:
        parents = [kept[keys[id]]["parent"] for id in gone if kept[keys[id]]]
        followed += [next_key(place.thread, parent) for parent in parents]
    following = (yield call("read_many", list(dict.fromkeys(followed)))) if followed else {}
    writes += [
        ("delete", record)
        for record in following.values()
        if record.exists and (record.value in gone or record.key in followed[: len(gone)])
    ]
    blobs: dict[bool, set[str]] = {True: set(), False: set()}
    for id, key in keys.items():
        versions = loaded(serde, kept[key]["checkpoint"])["channel_versions"] if kept[key] else {}
        blobs[id in gone] |= {place.blob(name, version) for name, version in versions.items()}
    writes += [("delete", records[keys[id]]) for id in gone if records[keys[id]].exists]
    yield commit(writes)
    yield from _cleared(place, gone, blobs[True] - blobs[False])


def _cleared(place: Place, gone: Iterable[str], blobs: set[str]) -> Steps:
    """Delete what belonged to checkpoints that are gone."""
    rest: dict[str, Record] = {}
    if blobs:
        found = yield call("read_many", sorted(blobs))
        rest |= {key: record for key, record in found.items() if record.exists}
        if more := pieces_of(found.values()):
            rest |= yield call("read_many", more)
    for id in gone:
        rest |= yield call("scan", place.writes(id))
        rest |= yield call("scan", place.checkpoint(id) + "/")
    yield from _in_batches(("delete", record) for record in rest.values())


def _reindexed(place: Place, head: Record, left: Sequence[Mapping[str, Any]]) -> Steps:
    """Return the writes that make `left` the index of a namespace."""
    pages = [list(left[at : at + PAGE]) for at in range(0, len(left), PAGE)]
    older, newest = pages[:-1], pages[-1] if pages else []
    names = [place.page(number) for number in range(max(head.value["pages"], len(older)))]
    found = (yield call("read_many", names)) if names else {}
    writes: list[tuple[Any, ...]] = []
    for number, record in enumerate(found.values()):
        if number < len(older):
            writes.append(("write", record, older[number]))
        elif record.exists:
            writes.append(("delete", record))
    if not newest:
        return [*writes, ("delete", head)]
    return [*writes, ("write", head, {**head.value, "pages": len(older), "entries": newest})]


def _older(serde: SerializerProtocol, place: Place, kept: Sequence[Mapping[str, Any]]) -> Steps:
    """Return all but the newest checkpoint, and but those that its delta channels are read from."""
    keep = {kept[-1]["id"]}
    newest = yield from read(serde, [Ref(place, kept[-1]["id"])])
    step = newest[0] if newest else None
    counters = step.metadata.get("counters_since_delta_snapshot") if step else None
    remaining = set(counters or ()) - set(step.checkpoint["channel_values"] if step else ())
    while remaining and step is not None and step.parent_config is not None:
        parent = step.parent_config["configurable"]["checkpoint_id"]
        found = yield from read(serde, [Ref(place, parent)], channels=remaining)
        step = found[0] if found else None
        if step is not None:
            keep.add(parent)
            remaining -= step.checkpoint["channel_values"].keys()
    return {entry["id"] for entry in kept} - keep


def rolled_back(serde: SerializerProtocol, thread: str, victim: int, epoch: int) -> Steps:
    """Remove what the run of epoch `victim` has stored, for the run of `epoch`."""

    def chosen(place: Place, kept: Sequence[Mapping[str, Any]]) -> Steps:
        yield from ()
        return {entry["id"] for entry in kept if entry["epoch"] == victim}

    yield from remove(serde, thread, chosen, epoch)
    run = yield call("read", run_key(thread))
    heads = yield call("scan", prefix("head", thread))
    for head in heads.values():
        place = Place(thread, head.value["ns"])
        on_top = yield call("scan", place.writes(head.value["entries"][-1]["id"]))
        for record in on_top.values():
            kept = record.value.get("writes", {}) if isinstance(record.value, dict) else {}
            left = {index: write for index, write in kept.items() if write[-1] != victim}
            if left != kept:
                value = {**record.value, "writes": left}
                yield commit([("expect", run._replace(epoch=epoch)), ("write", record, value)])


def _unless_running(run: Record) -> tuple[Any, ...]:
    """Return what holds a commit back while a run works on the thread."""
    if run.exists and run.value["state"] == RUNNING:
        return ("write", run, {**run.value, "state": ENDED})
    return ("expect", run)


def _in_batches(writes: Iterable[tuple[Any, ...]]) -> Steps:
    for batch in _batches(writes):
        yield commit(batch)


def _batches(writes: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    size = 0
    for write in writes:
        batch.append(write)
        size += len(str(write[2])) if len(write) > 2 else 0
        if len(batch) >= _MOST_KEYS or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
