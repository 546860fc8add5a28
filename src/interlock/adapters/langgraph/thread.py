"""A thread as a whole: removed, copied, pruned.  Its index is removed first, and copied last."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress

from langgraph.checkpoint.serde.base import SerializerProtocol

from interlock import AsyncSpace, Conflict, Fenced, Held, Record
from interlock.adapters.langgraph.checkpoints import ENDED, PAGE, RUNNING
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
from interlock.adapters.langgraph.refusals import of_thread
from interlock.adapters.langgraph.stored import Indexed, Ref, entries, loaded, read
from interlock.adapters.space import Write, commit, erase_deleted, one_of

STRATEGIES = ("keep_latest", "delete")
_MOST_KEYS, _MOST_BYTES = 200, 4_000_000  # in one commit
_ATTEMPTS = 100  # at a thread that others move

# Says which of the checkpoints in an index, oldest first, are to go.
Chosen = Callable[[Place, Sequence[Indexed]], Coroutine[object, None, set[str]]]


async def delete_thread(space: AsyncSpace, thread: str, erase: bool = False) -> None:
    """Remove all that is kept of a thread; Held while a run works on it.  `erase`: for good."""
    with of_thread(thread):
        await _delete_thread(space, thread, erase)


async def sweep(space: AsyncSpace, minutes: float) -> int:
    """Remove the threads in which nothing was stored for so many minutes; return how many.

    One that a run works on stays.
    """
    idle_since = int(((await space.time()).timestamp() - 60 * minutes) * 1e6)
    heads = (await space.scan(prefix("head"))).values()
    removed = 0
    for thread in dict.fromkeys(head.value["thread"] for head in heads):
        with suppress(Held):
            removed += await _delete_thread(space, thread, idle_since=idle_since)
    return removed


async def _delete_thread(
    space: AsyncSpace, thread: str, erase: bool = False, idle_since: int | None = None
) -> bool:
    for _ in range(_ATTEMPTS):
        run = await space.read(run_key(thread))
        heads = await space.scan(prefix("head", thread))
        if idle_since and any(head.time_us > idle_since for head in heads.values()):
            return False
        run_ids = set()
        for head in heads.values():
            run_ids |= {entry["run_id"] for entry in await entries(space, head)} - {None}
        known = [run_id_key(str(run_id), thread) for run_id in run_ids]
        named = (await space.read_many(known)) if known else {}
        first = [*heads.values(), *(record for record in named.values() if record.exists)]
        try:
            if first or run.exists:
                await commit(
                    space, [_unless_running(run), *(("delete", record) for record in first)]
                )
            for kind in OF_A_THREAD:
                found = await space.scan(prefix(kind, thread))
                await _in_batches(space, [("delete", record) for record in found.values()])
        except (Conflict, Fenced):
            continue
        break
    if erase:
        await erase_deleted(space, *(prefix(kind, thread) for kind in OF_A_THREAD))
    return True


async def copy_thread(space: AsyncSpace, source: str, target: str) -> None:
    """Copy all checkpoints of a thread to one that has none."""
    run_ids: set[str | None] = set()
    for kind in reversed(OF_A_THREAD):  # the index last: until then nothing is seen
        if kind == "once":
            continue  # what the copy is given is new to it
        found = await space.scan(prefix(kind, source))
        writes: list[Write] = []
        for key, record in found.items():
            value = record.value
            if kind == "head":
                value = {**value, "thread": target}
                run_ids |= {entry["run_id"] for entry in (await entries(space, record))} - {None}
            renamed = prefix(kind, target) + key.removeprefix(prefix(kind, source))
            writes.append(("create", renamed, value))
        if kind == "head":
            known = [run_id_key(str(run_id), target) for run_id in run_ids]
            named = (await space.read_many(known)) if known else {}
            writes += [("write", each, target) for each in named.values() if not each.exists]
        await _in_batches(space, writes)


async def prune(
    space: AsyncSpace, serde: SerializerProtocol, threads: Sequence[str], strategy: str
) -> None:
    """Remove what is older than the newest checkpoint of each namespace, or everything."""
    one_of("strategy", strategy, *STRATEGIES)
    for thread in map(str, threads):
        if strategy == "delete":
            await delete_thread(space, thread)
        else:
            await remove(
                space, serde, thread, lambda place, kept: _older(space, serde, place, kept)
            )


async def delete_for_runs(
    space: AsyncSpace, serde: SerializerProtocol, run_ids: Sequence[str]
) -> None:
    """Remove the checkpoints that were made under these run ids, in whatever thread."""
    for run_id in map(str, run_ids):
        known = await space.scan(f"{prefix('run-id')}{segment(run_id)}/")

        async def chosen(place: Place, kept: Sequence[Indexed], run_id: str = run_id) -> set[str]:
            return {entry["id"] for entry in kept if str(entry["run_id"]) == run_id}

        for record in known.values():
            await remove(space, serde, record.value, chosen)
        await _in_batches(space, [("delete", record) for record in known.values()])


async def remove(
    space: AsyncSpace,
    serde: SerializerProtocol,
    thread: str,
    chosen: Chosen,
    epoch: int | None = None,
) -> None:
    """Remove chosen checkpoints with what is kept for them alone; Held while a run works on the
    thread, unless it is that of `epoch`."""
    heads = await space.scan(prefix("head", thread))
    for head in heads.values():
        place = Place(thread, head.value["ns"])
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with of_thread(thread):
                    await _remove(space, serde, place, chosen, epoch)
                break
            except (Conflict, Fenced):
                if attempt == _ATTEMPTS or epoch is not None:
                    raise


async def _remove(
    space: AsyncSpace, serde: SerializerProtocol, place: Place, chosen: Chosen, epoch: int | None
) -> None:
    found = await space.read_many([run_key(place.thread), place.head])
    run, head = found.values()
    if not head.exists:
        return
    index = await entries(space, head)
    gone = await chosen(place, index)
    if not gone:
        return
    writes = [_unless_running(run) if epoch is None else ("expect", run._replace(epoch=epoch))]
    writes += await _reindexed(space, place, head, [e for e in index if e["id"] not in gone])
    keys = {entry["id"]: place.checkpoint(entry["id"]) for entry in index}
    kept, records = await read_packed(space, keys.values())
    followed = [next_key(place.thread, id) for id in gone] if not place.ns else []
    if not place.ns:
        parents = [kept[keys[id]]["parent"] for id in gone if kept[keys[id]]]
        followed += [next_key(place.thread, parent) for parent in parents]
    following = (await space.read_many(list(dict.fromkeys(followed)))) if followed else {}
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
    await commit(space, writes)
    await _cleared(space, place, gone, blobs[True] - blobs[False])


async def _cleared(space: AsyncSpace, place: Place, gone: Iterable[str], blobs: set[str]) -> None:
    """Delete what belonged to checkpoints that are gone."""
    rest: dict[str, Record] = {}
    if blobs:
        found = await space.read_many(sorted(blobs))
        rest |= {key: record for key, record in found.items() if record.exists}
        if more := pieces_of(found.values()):
            rest |= await space.read_many(more)
    for id in gone:
        rest |= await space.scan(place.writes(id))
        rest |= await space.scan(place.checkpoint(id) + "/")
    await _in_batches(space, [("delete", record) for record in rest.values()])


async def _reindexed(
    space: AsyncSpace, place: Place, head: Record, left: Sequence[Indexed]
) -> list[Write]:
    """Return the writes that make `left` the index of a namespace."""
    pages = [list(left[at : at + PAGE]) for at in range(0, len(left), PAGE)]
    older, newest = pages[:-1], pages[-1] if pages else []
    names = [place.page(number) for number in range(max(head.value["pages"], len(older)))]
    found = (await space.read_many(names)) if names else {}
    writes: list[Write] = []
    for number, record in enumerate(found.values()):
        if number < len(older):
            writes.append(("write", record, older[number]))
        elif record.exists:
            writes.append(("delete", record))
    if not newest:
        return [*writes, ("delete", head)]
    return [*writes, ("write", head, {**head.value, "pages": len(older), "entries": newest})]


async def _older(
    space: AsyncSpace, serde: SerializerProtocol, place: Place, kept: Sequence[Indexed]
) -> set[str]:
    """Return all but the newest checkpoint, and but those that its delta channels are read from."""
    keep = {kept[-1]["id"]}
    newest = await read(space, serde, [Ref(place, kept[-1]["id"])])
    step = newest[0] if newest else None
    counters = step.metadata.get("counters_since_delta_snapshot") if step else None
    remaining = set(counters or ()) - set(step.checkpoint["channel_values"] if step else ())
    while remaining and step is not None and step.parent_config is not None:
        parent = step.parent_config["configurable"]["checkpoint_id"]
        found = await read(space, serde, [Ref(place, parent)], channels=remaining)
        step = found[0] if found else None
        if step is not None:
            keep.add(parent)
            remaining -= step.checkpoint["channel_values"].keys()
    return {entry["id"] for entry in kept} - keep


async def rolled_back(
    space: AsyncSpace, serde: SerializerProtocol, thread: str, victim: int, epoch: int
) -> None:
    """Remove what the run of epoch `victim` has stored, for the run of `epoch`."""

    async def chosen(place: Place, kept: Sequence[Indexed]) -> set[str]:
        return {entry["id"] for entry in kept if entry["epoch"] == victim}

    await remove(space, serde, thread, chosen, epoch)
    run = await space.read(run_key(thread))
    heads = await space.scan(prefix("head", thread))
    for head in heads.values():
        place = Place(thread, head.value["ns"])
        on_top = await space.scan(place.writes(head.value["entries"][-1]["id"]))
        for record in on_top.values():
            kept = record.value.get("writes", {}) if isinstance(record.value, dict) else {}
            left = {index: write for index, write in kept.items() if write[-1] != victim}
            if left != kept:
                value = {**record.value, "writes": left}
                await commit(
                    space, [("expect", run._replace(epoch=epoch)), ("write", record, value)]
                )


def _unless_running(run: Record) -> Write:
    """Return what holds a commit back while a run works on the thread."""
    if run.exists and run.value["state"] == RUNNING:
        return ("write", run, {**run.value, "state": ENDED})
    return ("expect", run)


async def _in_batches(space: AsyncSpace, writes: Iterable[Write]) -> None:
    for batch in _batches(writes):
        await commit(space, batch)


def _batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    batch: list[Write] = []
    size = 0
    for write in writes:
        batch.append(write)
        size += len(str(write[2])) if len(write) > 2 else 0
        if len(batch) >= _MOST_KEYS or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
