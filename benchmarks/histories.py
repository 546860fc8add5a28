"""The history checkers: how long a recorded history takes to read and to check."""

from __future__ import annotations

import heapq
import json
import statistics
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.cases import Row, seconds
from interlock.verify import check_linearizable, check_serializable, read_history


def registers(count: int, clients: int, keys: int) -> list[dict[str, Any]]:
    """Return a linearizable history: guarded writes and reads of versioned keys, overlapping."""
    random = Random(1)
    events = [(random.random(), client, 0) for client in range(clients)]
    heapq.heapify(events)
    now = [0] * keys
    known: dict[tuple[int, int], int] = {}
    running: dict[int, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    while len(lines) < count:
        time, client, stage = heapq.heappop(events)
        if stage == 0:
            running[client] = {"process": client, "key": random.randrange(keys), "invoked": time}
        elif stage == 1:
            line = running[client]
            key, version = line["key"], now[line["key"]]
            # A write that comes with an old version is refused, and has read the new one.
            if random.random() < 0.5 and known.get((client, key), 0) == version:
                line |= {"kind": "cas", "expect": version, "value": len(lines)}
                now[key] = version + 1
            else:
                line |= {"kind": "read"}
            line["version"] = known[client, key] = now[key]
        else:
            line = running[client] | {"completed": time, "outcome": "ok"}
            lines.append(line | {"key": f"k{line['key']}"})
        heapq.heappush(events, (time + random.expovariate(1), client, (stage + 1) % 3))
    return lines


def transactions(count: int, clients: int, keys: int) -> list[dict[str, Any]]:
    """Return a serializable history: four keys a transaction, each read or written."""
    random = Random(1)
    now = dict.fromkeys(range(keys), 0)
    running: dict[int, tuple[int, list[int], dict[int, int]]] = {}
    lines: list[dict[str, Any]] = []
    time = 0
    while len(lines) < count:
        time += 1
        client = random.randrange(clients)
        if client not in running:
            chosen = random.sample(range(keys), 4)
            running[client] = (time, chosen, {key: now[key] for key in chosen})
            continue
        began, chosen, seen = running.pop(client)
        if any(now[key] != seen[key] for key in chosen):
            continue
        written = [key for key in chosen if random.random() < 0.5]
        for key in written:
            now[key] += 1
        lines.append(
            {
                "process": client,
                "kind": "txn",
                "reads": {f"k{key}": seen[key] for key in chosen if key not in written},
                "writes": {f"k{key}": now[key] for key in written},
                "invoked": began,
                "completed": time,
                "outcome": "ok",
            }
        )
    return lines


def check(folder: Path, scale: int) -> list[Row]:
    """Read and check histories that hold: the checkers then look at all of them."""
    rows = []
    single = registers(100 * scale, 8, 20)
    many = transactions(1_000 * scale, 8, 500)
    cases: list[tuple[str, list[dict[str, Any]], Any, str, int]] = [
        ("operations, 8 clients, 20 keys: linearizable", single, check_linearizable, "0.2 s", 9),
        ("transactions: serializable", many, check_serializable, "15 s", 3),
        ("transactions: strictly serializable", many, _strictly, "15 s", 3),
    ]
    for what, lines, checker, target, rounds in cases:
        file = folder / "history.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        history = read_history(file)
        if not (verdict := checker(history)).ok:
            raise RuntimeError(f"a history made to hold does not: {verdict}")
        reading = statistics.median(seconds(partial(read_history, file)) for _ in range(rounds))
        times = [seconds(partial(checker, history)) for _ in range(rounds)]
        figure = f"{statistics.median(times):.3f} s; reading the file {reading:.3f} s"
        target = f"under {target}"
        rows.append(Row(f"check {len(lines):,} {what}", figure, target, f"median of {rounds}"))
    return rows


def _strictly(history: Any) -> Any:
    return check_serializable(history, strict=True)


CASES = (check,)
