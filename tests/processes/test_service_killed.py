"""A service that is killed amid writes: what it acknowledged is there, once, and watchers and
holders of leases go on where they were."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import interlock
from tests.servers.process import wait_until
from tests.servers.service import Service

WRITERS, EACH = 3, 12


def test_a_killed_service_loses_no_acknowledged_write(tmp_path: Path) -> None:
    acknowledged: list[tuple[str, int]] = []
    with Service.start(tmp_path / "s") as service:
        space = service.space("s")
        space.ask("POST", "leases/paper", {"ttl": 1.0}, Interlock_Agent="dead")
        seen: list[int] = []
        all_seen = threading.Event()

        def watch() -> None:
            with interlock.open(service.url(), "s", "watcher") as watcher:
                for entry in watcher.watch(after=0):
                    seen.append(entry.position)
                    if len(seen) == WRITERS * EACH:
                        all_seen.set()
                        return

        def write(name: str) -> None:
            with interlock.open(service.url(), "s", name) as writer:
                for _ in range(EACH):
                    record = writer.update(f"k/{name}", lambda n: n + 1, default=0)
                    acknowledged.append((record.key, record.version))

        threading.Thread(target=watch, daemon=True).start()
        with ThreadPoolExecutor(WRITERS) as pool, space.watching("?after=0") as events:
            done = [pool.submit(write, str(n)) for n in range(WRITERS)]
            wait_until(lambda: len(acknowledged) >= WRITERS, "something is acknowledged")
            service.kill()
            service.start_again()
            for each in done:
                each.result(timeout=60)
            last = 0
            try:
                for position, _ in events:
                    last = int(position)
            except ConnectionError:
                pass
        assert all_seen.wait(60)
        with space.watching(Last_Event_ID=str(last)) as events:
            rest = [int(next(events)[0]) for _ in range(WRITERS * EACH - last)]
        assert rest == list(range(last + 1, WRITERS * EACH + 1))
        assert seen == list(range(1, WRITERS * EACH + 1))
        for n in range(WRITERS):
            record = space.ask("GET", f"records/k/{n}").json
            assert (record["value"], record["version"]) == (EACH, EACH)
        assert sorted(acknowledged) == sorted(
            (f"k/{n}", version) for n in range(WRITERS) for version in range(1, EACH + 1)
        )
        taken = space.ask("POST", "leases/paper", {"wait": 20})
        assert (taken.status, taken.json["epoch"]) == (201, 2)
