"""What `interlock monitor` says of the leases and queues of a space, and its metrics."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import interlock
from interlock.core.requests import LeaveTurn, TakeLease, TakeTurn
from interlock.errors import Unavailable
from interlock.forensics import Thresholds, Watcher, monitor, open_feed
from interlock.forensics.metrics import serving_metrics


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[interlock.Space]:
    monkeypatch.setattr(monitor, "_LOOKS_EVERY", 0.0)
    monkeypatch.setattr(monitor, "_DOCTOR_EVERY", 0.0)
    with interlock.open(f"sqlite:///{tmp_path / 's.db'}", "default", "us") as opened:
        opened.create("k", 1)
        yield opened


def watcher(space: interlock.Space, folder: Path, **limits: Any) -> Watcher:
    url = f"sqlite:///{folder / 's.db'}"
    found = Watcher(
        lambda position: open_feed(url, space="default", position=position),
        thresholds=Thresholds(**limits),
    )
    space.update("k", lambda n: n + 1)  # a key of which something is heard
    assert polled(found) == []
    return found


def polled(watching: Watcher) -> list[tuple[str, str]]:
    return [(alert.kind, alert.text) for _ in range(2) for alert in watching.poll(0.0)]


def wait_for_turns(space: interlock.Space, count: int) -> list[int]:
    perform = space.session.driver.backend.perform
    return [
        perform(TakeTurn(("k",), name=f"n{n}", agent=f"a{n}", ttl=600.0)).ticket
        for n in range(count)
    ]


def test_a_long_queue_is_told_when_its_length_changes(
    space: interlock.Space, tmp_path: Path
) -> None:
    with closing(watcher(space, tmp_path, queue=3)) as watching:
        wait_for_turns(space, 2)
        assert polled(watching) == []
        tickets = wait_for_turns(space, 4)
        assert polled(watching) == [("queue", "k: 4 wait in the queue")]
        assert (polled(watching), watching.longest_queue) == ([], 4)
        for number, ticket in enumerate(tickets):
            space.session.driver.backend.perform(LeaveTurn(ticket, name=f"n{number}"))
        assert (polled(watching), watching.longest_queue) == ([], 0)
        wait_for_turns(space, 3)
        assert polled(watching) == [("queue", "k: 3 wait in the queue")]


def test_queues_are_not_told_where_no_threshold_is_set(
    space: interlock.Space, tmp_path: Path
) -> None:
    with closing(watcher(space, tmp_path, queue=0)) as watching:
        wait_for_turns(space, 6)
        assert polled(watching) == []


def hang(space: interlock.Space, tmp_path: Path) -> None:
    """Have a holder die: its lease expired two minutes ago."""
    perform = space.session.driver.backend.perform
    asked = TakeLease(("k",), name="n", agent="dead", incarnation=0, ttl=60.0)
    assert perform(asked).granted
    with closing(sqlite3.connect(tmp_path / "s.db")) as db, db:
        db.execute("UPDATE leases SET expires = expires - 180000000, renewed = renewed - 180000000")


def test_a_lease_whose_holder_has_died_is_told_once(space: interlock.Space, tmp_path: Path) -> None:
    with closing(watcher(space, tmp_path)) as watching:
        hang(space, tmp_path)
        ((kind, text),) = polled(watching)
        assert (kind, watching.hanging) == ("lease", 1)
        assert "the lease of 'k' expired" in text
        assert "'dead' did not give it up" in text
        assert polled(watching) == []
        space.reclaim("k")
        assert (polled(watching), watching.hanging) == ([], 0)


def test_metrics_are_those_of_the_watcher(space: interlock.Space, tmp_path: Path) -> None:
    with closing(watcher(space, tmp_path, queue=3)) as watching:
        hang(space, tmp_path)
        wait_for_turns(space, 3)
        polled(watching)
        with serving_metrics(watching, "127.0.0.1", 0) as port:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                lines = answer.read().decode().splitlines()
            taken = serving_metrics(watching, "127.0.0.1", port)
            with pytest.raises(Unavailable, match="Can't listen"), taken:
                pass
    for line in (
        'interlock_monitor_findings_total{kind="queue"} 1.0',
        'interlock_monitor_alerts_total{kind="lease"} 1.0',
        'interlock_monitor_alerts_total{kind="loss"} 0.0',
        "interlock_monitor_longest_queue 3.0",
        "interlock_monitor_hanging_leases 1.0",
        "interlock_monitor_up 1.0",
    ):
        assert line in lines
    assert not any('"k"' in line for line in lines), "labels hold no keys"
