"""A worker of the torture of guards: `python -m interlock.verify.torture.guard_worker`.

Most workers read, think and write through guards.  The last one writes blindly, all the time, as
many programs that know of no guard.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import interlock
from interlock import Json
from interlock.verify.torture import plan
from interlock.verify.torture.guard_place import GuardPlace, Lost, by, fields, place_at
from interlock.verify.torture.plan import Op, Settings, operation
from interlock.verify.torture.record import ACKNOWLEDGED, REFUSED, UNKNOWN
from interlock.verify.torture.worker import Life, Noted, die_with_parent, wrong_clock

_THOUGHTS = 1000
_LEGACY_PAUSE = 0.004  # seconds between two writes of a blind writer, at most


class Guarded:
    """An agent that works through a guard."""

    def __init__(self, place: GuardPlace, number: int) -> None:
        self._place = place
        self._guard = place.guard(f"worker-{number}")
        self._ways: dict[str, Callable[[Op, Noted], None]] = {
            "update": self._update,
            "write": self._write,
            "churn": self._churn,
            "read": self._read,
        }

    async def perform(self, op: Op, noted: Noted) -> None:
        """Perform one operation: guards of blocking clients block, so in a thread."""
        await asyncio.to_thread(self._ways[op.kind], op, noted)

    def _update(self, op: Op, noted: Noted) -> None:
        began, over, thoughts, name = time.monotonic(), None, 0, op.id

        def think(value: Json) -> Json:
            nonlocal over, thoughts, name
            thoughts += 1
            over, name = by(value), f"{op.id}.{thoughts}"
            noted.record({"sent": (key, over, name)})
            return {**(value or {}), **fields(name, over)}

        key = op.key("hot", plan.GUARDED_HOT)
        self._guard.update(self._place.key(key), think, attempts=_THOUGHTS, turns="never")
        noted.commit(began, op.id, {key: (None, over)}, {key: (None, name)})

    def _write(self, op: Op, noted: Noted) -> None:
        key = op.key("hot", plan.GUARDED_HOT)
        self._write_over(self._guard.read(self._place.key(key)), key, op, noted)

    def _churn(self, op: Op, noted: Noted) -> None:
        """Create what is absent, else write or delete it."""
        key = op.key("churned", plan.GUARDED_CHURNED)
        record = self._guard.read(self._place.key(key))
        if not record.exists or op.b % 2:
            self._write_over(record, key, op, noted)
            return
        began, over = time.monotonic(), by(record.value)
        noted.record({"sent": (key, over, op.id), "deletes": True})
        self._guard.delete(record)
        noted.commit(began, op.id, {key: (None, over)}, {key: (None, None)})

    def _write_over(self, record: interlock.Record, key: str, op: Op, noted: Noted) -> None:
        began, over = time.monotonic(), by(record.value)
        noted.record({"sent": (key, over, op.id)})
        value = {**(record.value or {}), **fields(op.id, over)}
        if record.exists:
            self._guard.write(record, value)
        else:
            self._guard.create(record.key, value)
        noted.commit(began, op.id, {key: (None, over)}, {key: (None, op.id)})

    def _read(self, op: Op, noted: Noted) -> None:
        key, began = op.key("hot", plan.GUARDED_HOT), time.monotonic()
        noted.read(began, {key: self._guard.read(self._place.key(key))})


class Legacy(Life):
    """Programs that know of no guard."""

    async def write(self, place: GuardPlace) -> None:
        """Write blindly until all others are through with the plan."""
        chance = random.Random(str(self.next))
        while not self.board.all_begun(self.settings.workers, self.settings.share):
            begun = max(self.board.begun(each) for each in range(self.settings.workers))
            window = min(begun // self.settings.window, self.settings.windows - 1)
            op = operation(self.settings, self.number, self.next)._replace(window=window)
            self.next += 1
            hot = op.b % 8
            family, among = ("hot", plan.GUARDED_HOT) if hot else ("churned", plan.GUARDED_CHURNED)
            key, began = op.key(family, among), time.monotonic()
            op = op._replace(kind="overwrite")
            self.recorder.begin(op, began)
            self.recorder.note(op, {"sent": (key, "?", op.id)})
            self.board.set_begun(self.number, self.next)
            noted, outcome, reason = Noted(partial(self.recorder.note, op)), ACKNOWLEDGED, ""
            try:
                done = await asyncio.to_thread(place.overwrite, key, op.id)
            except Lost as problem:
                outcome, reason = UNKNOWN, f"Lost: {problem}"
            else:
                outcome = ACKNOWLEDGED if done.wrote else REFUSED
                if done.wrote:
                    noted.commit(began, op.id, {key: (None, done.over)}, {key: (None, op.id)})
            self.recorder.end(op, time.monotonic(), outcome, reason, noted.pieces, noted.facts)
            await asyncio.sleep(chance.uniform(0, _LEGACY_PAUSE) if outcome != UNKNOWN else 0.2)


async def live(settings: Settings, folder: Path, number: int, url: str) -> None:
    """Live the life of one worker."""
    agents = settings.legacy if number == settings.workers else settings.tasks
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(agents))
    watching = asyncio.create_task(die_with_parent())
    place = place_at(url, settings.space)
    # A connection of SQLite is one agent's at a time.
    places = [place_at(url, settings.space) if place.alone else place for _ in range(agents)]
    if number == settings.workers:
        legacy = Legacy(settings, folder, number)
        await asyncio.gather(*(legacy.write(each) for each in places))
    else:
        life = Life(settings, folder, number)
        wrong_clock(life.board, number)
        await asyncio.gather(*(life.work(Guarded(each, number)) for each in places))
    watching.cancel()


def main() -> None:
    """Run a worker."""
    settings, folder, number, url = json.load(sys.stdin)
    asyncio.run(live(Settings.from_json(settings), Path(folder), number, url))


if __name__ == "__main__":
    main()
