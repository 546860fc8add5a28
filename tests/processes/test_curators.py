"""`kill -9` of a curator whose validator is a service: each event once, no verdict asked twice."""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection
from typing import Any

import interlock
from tests.processes.writers import FORKSERVER, Place, preload

preload(__name__)
TTL = 0.1
EVENTS = [
    *({"scope": scope, "text": f"{scope} {n}"} for n in range(3) for scope in ("project", "user")),
    {"scope": "project", "text": "project 0"},  # a duplicate
    {"scope": "project"},  # malformed
    {"scope": "project", "text": "maybe"},
]
# What the process says last before it dies, one after the other: in the call, or in the merge.
DEATHS = ["asked", "merging", "merging", "asked"]


def curate(place: Place, signs: Connection) -> None:
    """Curate what is there, saying what it does before it does it."""

    def judge(event: Any) -> str | None:
        signs.send(("asked", event["text"]))
        threading.Event().wait(0.01)  # so that it is mostly here when it is killed
        return "a guess" if event["text"] == "maybe" else None

    def merge(value: list[Any], event: Any) -> list[Any]:
        signs.send(("merging", event["text"]))
        threading.Event().wait(0.01)
        return [*value, event]

    with interlock.open(place.url, space=place.space, agent="worker") as space:
        curator = space.curator(
            "events/", validate=judge, effect=True, merge=merge, initial=[], ttl=TTL
        )
        signs.send(("done", curator.catch_up()))


def killed_at(place: Place, death: str | None, happened: list[Any]) -> Any:
    """Have a process curate until the second time that it says `death`; return what it did."""
    signs, theirs = FORKSERVER.Pipe(duplex=False)
    process = FORKSERVER.Process(target=curate, args=(place, theirs), daemon=True)
    process.start()
    theirs.close()
    said = 0
    try:
        while said < 2:
            sign, what = signs.recv()
            happened.append((sign, what))
            said += sign == death
            if sign == "done":
                return what
        process.kill()
    finally:
        process.kill()
        process.join()
    return None


def test_each_event_counts_once_and_no_verdict_is_asked_for_twice(place: Place) -> None:
    happened: list[Any] = []
    rules = {"events/*": interlock.merged("append")}
    with interlock.open(place.url, space=place.space, agent="worker", rules=rules) as space:
        space.append_many("events/w1", EVENTS)
        for death in DEATHS:
            assert killed_at(place, death, happened) is None, "it was through before it was killed"
        progress = killed_at(place, None, happened)
        assert (progress.merged, progress.rejected, progress.duplicates) == (6, 2, 1)
        for scope in ("project", "user"):
            found = [memory["text"] for memory in space.read(f"memory/{scope}").value]
            assert found == [f"{scope} {n}" for n in range(3)]
        kept = [record.value["reason"] for record in space.scan("curator/rejected/").values()]
        assert kept == ["KeyError: 'text'", "a guess"]
    asked = [what for sign, what in happened if sign == "asked"]
    assert len(asked) > len({*asked}), "none was killed in a call: the test shows nothing"
    assert len(asked) <= len({*asked}) + DEATHS.count("asked")
    merging = [what for sign, what in happened if sign == "merging"]
    assert len(merging) > len({*merging}), "none was killed in a merge: the test shows nothing"
    for number, (sign, what) in enumerate(happened):
        assert sign != "merging" or ("asked", what) not in happened[number:], "asked again"
