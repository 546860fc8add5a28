"""Small random histories, and checks of them by trying every order: what the checkers must say.

Nothing here is shared with the checkers but the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from random import Random
from typing import Any

from interlock.verify import Operation, parse_history

Line = dict[str, Any]


def parsed(lines: list[Line]) -> list[Operation]:
    """Return the operations of lines given as objects."""
    return parse_history([json.dumps(line) for line in lines])


def orders(lines: list[Line], real_time: bool = True) -> Iterator[list[Line]]:
    """Yield every order of some operations, or each that respects real time."""
    if not lines:
        yield []
    for at, first in enumerate(lines):
        rest = lines[:at] + lines[at + 1 :]
        if real_time and any(_end(other) < first["invoked"] for other in rest):
            continue
        for order in orders(rest, real_time):
            yield [first, *order]


def subsets(lines: list[Line]) -> Iterator[list[Line]]:
    """Yield the operations that happened, with each subset of those that may have."""
    sure = [line for line in lines if line["outcome"] == "ok"]
    maybe = [line for line in lines if line["outcome"] == "unknown"]
    for size in range(len(maybe) + 1):
        for chosen in combinations(maybe, size):
            yield [*sure, *chosen]


def _end(line: Line) -> float:
    return float(line["completed"]) if line["outcome"] == "ok" else float("inf")


# One key.


def is_linearizable(lines: list[Line]) -> bool:
    """Say whether the operations on one key can be ordered."""
    versions = range(1, len(lines) + 1 + max((_version(line) for line in lines), default=0))
    values = {json.dumps(line.get("value")) for line in lines} | {"null"}
    values |= {json.dumps(line["expect"]["value"]) for line in lines if "value" in _expect(line)}
    for happened in subsets(lines):
        for order in orders(happened):
            states = {(0, "null")}
            for line in order:
                states = set(_met(line, states, versions, values))
            if states:
                return True
    return False


def _version(line: Line) -> int:
    return int(max(line.get("version", 0), _expect(line).get("version", 0)))


def _expect(line: Line) -> Line:
    expect = line.get("expect", {})
    return {"version": expect} if isinstance(expect, int) else expect


def _met(
    line: Line, states: set[tuple[int, str]], versions: range, values: set[str]
) -> Iterator[tuple[int, str]]:
    """Yield every state that may follow one of some states."""
    for version, value in states:
        if line["kind"] == "read":
            if _fits(line, version, value):
                yield version, value
            continue
        if not _fits(_expect(line), version, value):
            continue
        if line["kind"] == "append":
            after = [json.dumps([*(json.loads(value) or []), line["value"]])]
        else:
            after = [json.dumps(line["value"])] if "value" in line else list(values)
        for following in versions:
            if following > version and line.get("version", following) == following:
                yield from ((following, made) for made in after)


def _fits(seen: Line, version: int, value: str) -> bool:
    told = json.dumps(seen["value"]) if "value" in seen else value
    if told == "[]" and value == "null":  # an empty list is a list that nobody appended to
        told = "null"
    return bool(seen.get("version", version) == version and told == value)


def register_history(seed: int) -> list[Line]:
    """Return operations on one key: a run of a right register, with up to two things changed."""
    random = Random(seed)
    recorded = random.choice(["version", "value", "both", "either"])
    appends = random.random() < 0.2
    lines: list[Line] = []
    version, value, time = 0, None, 0.0
    for number in range(random.randint(2, 6)):
        time += random.choice([0, 1, 1])
        kinds = ["read", "append"] if appends else ["read", "write", "cas"]
        line: Line = {"process": number, "kind": random.choice(kinds), "key": "k"}
        before = _told(random, recorded, version, value)
        if line["kind"] == "read":
            line |= before
        else:
            made = number if recorded in ("both", "either") else random.randint(0, 2)
            value = [*(value or []), made] if appends else made  # type: ignore[misc]  # a list
            version += random.choice([1, 1, 2]) if recorded != "version" else 1
            line |= _told(random, recorded, version, made)
            line |= {"value": made} if appends else {}
            line |= {"expect": before} if line["kind"] == "cas" else {}
        line |= {"invoked": time - random.randint(0, 3), "completed": time + random.randint(0, 3)}
        lines.append(line | {"outcome": "ok"})
    for _ in range(random.randint(0, 2)):
        _change(random, random.choice(lines))
    random.shuffle(lines)
    return lines


def _told(random: Random, recorded: str, version: int, value: Any) -> Line:
    chosen = random.choice(["version", "value", "both"]) if recorded == "either" else recorded
    told = {"version": version, "value": value}
    return told if chosen == "both" else {chosen: told[chosen]}


def _change(random: Random, line: Line) -> None:
    what = random.choice(["outcome", "outcome", "version", "value", "time"])
    if what == "outcome":
        line["outcome"] = random.choice(["unknown", "unknown", "failed"])
    elif what == "version" and line.get("version", 0) > 1:
        line["version"] += random.choice([-1, 1])
    elif what == "value" and isinstance(line.get("value"), int) and line.get("version") != 0:
        line["value"] += random.choice([-1, 1])
    elif what == "value" and isinstance(line.get("value"), list) and line["value"]:
        line["value"] = line["value"][::-1]
    elif what == "time":
        line["invoked"] += 2
        line["completed"] += 3


# Transactions.


def is_serializable(lines: list[Line], strict: bool) -> bool:
    """Say whether the transactions can be put in an order in which each reads what is there."""
    for happened in subsets(lines):
        for order in orders(happened, strict):
            if _runs(order):
                return True
    return False


def _runs(order: list[Line]) -> bool:
    now: dict[str, Any] = {}  # the state of each key; absent: never written
    for line in order:
        writes = {key: _each(made) for key, made in line.get("writes", {}).items()}
        for key, seen in line.get("reads", {}).items():
            for state in _each(seen):
                own = any(_same(state, made) for made in writes.get(key, ()))
                if not own and not _same(state, now.get(key, {"version": 0, "value": None})):
                    return False
        for prefix, found in line.get("scans", {}).items():
            there = {
                key
                for key, state in now.items()
                if key.startswith(prefix) and ("value" not in state or state["value"] is not None)
            }
            seen = {key for key in found if "value" not in _state(found[key])}
            mine = {k for k in seen if any(_same(_state(found[k]), m) for m in writes.get(k, ()))}
            seen, there = seen - mine, there - mine  # it may have been before or after it wrote
            there -= {
                key for key in there - seen if writes.get(key, [{}])[-1].get("value", 0) is None
            }
            if seen != there or any(not _same(_state(found[key]), now[key]) for key in seen):
                return False
        for key, made in writes.items():
            if made[-1].get("version", 1) <= now.get(key, {}).get("version", 0):
                return False
            now[key] = made[-1]
    return True


def _each(states: Any) -> list[Line]:
    return [_state(each) for each in (states if isinstance(states, list) else [states])]


def _state(state: Any) -> Line:
    return {"version": state} if isinstance(state, int) else state


def _same(seen: Line, there: Line) -> bool:
    return all(seen[name] == there[name] for name in seen.keys() & there.keys())


def transaction_history(seed: int) -> list[Line]:
    """Return transactions of a right store with up to two things changed."""
    random = Random(seed)
    keys = ["a/1", "a/2", "b"][: random.randint(1, 3)]
    deletes = random.random() < 0.3
    now: dict[str, Any] = {}
    lines: list[Line] = []
    for number in range(random.randint(2, 5)):
        line: Line = {"process": number, "kind": "txn", "reads": {}, "writes": {}, "scans": {}}
        for key in keys:
            if random.random() < 0.6:
                line["reads"][key] = _state(now.get(key, 0))["version"]
        if random.random() < 0.3:
            line["scans"]["a/"] = {
                key: state
                for key, state in now.items()
                if key.startswith("a/") and isinstance(state, int)
            }
        for key in keys:
            if random.random() < 0.5:
                version = _state(now.get(key, 0))["version"] + random.choice([1, 1, 1, 2])
                gone = deletes and random.random() < 0.4
                now[key] = {"version": version, "value": None} if gone else version
                line["writes"][key] = now[key]
                if version > 1 and random.random() < 0.05:
                    line["writes"][key] = [version - 1, now[key]]
        line |= {"invoked": 2 * number - random.randint(0, 4), "outcome": "ok"}
        lines.append(line | {"completed": 2 * number + random.randint(0, 4)})
    for _ in range(random.randint(0, 2)):
        _disturb(random, random.choice(lines))
    random.shuffle(lines)
    return lines


def _disturb(random: Random, line: Line) -> None:
    what = random.choice(["outcome", "reads", "reads", "writes", "scans", "time"])
    if what == "outcome":
        line["outcome"] = random.choice(["unknown", "failed"])
    elif what == "time":
        line["invoked"] += 3
        line["completed"] += 5
    elif what in ("reads", "writes") and line[what]:
        key = random.choice(list(line[what]))
        if isinstance(line[what][key], int):
            least = 0 if what == "reads" else 1
            line[what][key] = max(least, line[what][key] + random.choice([-1, -1, 1]))
    elif what == "scans" and line["scans"].get("a/"):
        line["scans"]["a/"].pop(random.choice(list(line["scans"]["a/"])))


def valued(lines: list[Line]) -> list[Line]:
    """Return transactions with values in place of versions, each version a value of its own."""
    return [
        {
            **line,
            "scans": {},
            "reads": {key: _valued(states) for key, states in line["reads"].items()},
            "writes": {key: _valued(states) for key, states in line["writes"].items()},
        }
        for line in lines
    ]


def _valued(states: Any) -> Any:
    each = [{"value": state["version"] or None} for state in _each(states)]
    return each if isinstance(states, list) else each[0]
