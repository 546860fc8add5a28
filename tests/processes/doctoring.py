"""Recorded traces made wrong: as if a guard of the store had been ignored in a run that was real.

The trace is cut at the answer that is changed, so that what comes before it, and the log as far as
that, stay as they were.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]
State = tuple[int, int]  # version, epoch


class Asked(NamedTuple):
    """A request and its answer, with the number of the answer's line in its file."""

    file: str
    line: int
    ask: Line
    told: Line


class Recorded(NamedTuple):
    """The files of one space: the lines of each, by its path."""

    name: str
    files: dict[str, list[Line]]

    def answered(self) -> Iterator[Asked]:
        """Yield the requests that were answered, in the order of the answers."""
        found = []
        for file, lines in self.files.items():
            asks: dict[int, Line] = {}
            for number, line in enumerate(lines, 1):
                if "ask" in line:
                    asks[line["n"]] = line
                elif "told" in line:
                    found.append(Asked(file, number, asks[line["n"]], line))
        yield from sorted(found, key=lambda asked: asked.told["at"])

    def log(self) -> list[Any]:
        """Return the entries of the log: [position, key, version, epoch, kind, agent, op id]."""
        entries = [asked.told["entries"] for asked in self.answered() if "entries" in asked.told]
        return list(entries[-1])

    def plans(self) -> dict[str, list[Line]]:
        """Return the commits that were sent, by operation id."""
        sent: dict[str, list[Line]] = defaultdict(list)
        for lines in self.files.values():
            for line in lines:
                if line.get("ask") == "Commit":
                    sent[line["op_id"]].append(line)
        return sent

    def write(self, folder: Path, name: str) -> None:
        """Write the files to a folder, as those of a space of another name; so begin theirs."""
        for file, lines in self.files.items():
            head = {**lines[0], "space": name, "name": name}
            text = "".join(json.dumps(line) + "\n" for line in [head, *lines[1:]])
            (folder / f"{name}-{Path(file).name}").write_text(text)


def recorded(folder: Path) -> list[Recorded]:
    """Return the traces in a folder, one for each space."""
    spaces: dict[str, dict[str, list[Line]]] = defaultdict(dict)
    for path in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line]
        spaces[lines[0]["name"]][str(path)] = lines
    return [Recorded(name, files) for name, files in sorted(spaces.items())]


def _states(asked: Asked) -> Iterator[State]:
    """Yield every state of the key that an answer told of."""
    records = [*asked.told.get("records", []), *asked.told.get("writes", [])]
    yield from ((version, epoch) for _, version, epoch, *_ in records)


def _doctored(trace: Recorded, chosen: Asked, version: int, epoch: int) -> Recorded:
    """Return the trace up to an answer, which now says that `version` was committed."""
    upto = chosen.told["at"]
    kept = [entry for entry in trace.log() if entry[2] < version]
    key, position = chosen.ask["writes"][0][1], len(kept) + 1
    op_id, agent, kind = chosen.ask["op_id"], chosen.ask["agent"], chosen.ask["writes"][0][0]
    log = [*kept, [position, key, version, epoch, kind, agent, op_id]]
    answer = {
        "n": chosen.told["n"],
        "at": upto,
        "told": "Committed",
        "position": position,
        "replayed": False,
        "writes": [[key, version, epoch, position]],
    }
    files = {}
    for file, lines in trace.files.items():
        reads_log = any("entries" in line for line in lines)
        left = [line for line in lines if reads_log or line.get("at", 0) <= upto]
        files[file] = [{**line, "entries": log} if "entries" in line else line for line in left]
    files[chosen.file][chosen.line - 1] = answer
    return Recorded(trace.name, files)


def _changed(trace: Recorded, is_it: Callable[[Asked], bool]) -> Iterator[tuple[Asked, Recorded]]:
    """Yield an answer and the trace in which it says that its plan was committed after all."""
    seen: State = (0, 0)
    for asked in trace.answered():
        seen = max([seen, *_states(asked)])
        told_of = max(_states(asked), default=seen)
        if asked.ask["ask"] == "Commit" and is_it(asked) and _is_last(asked, seen, told_of):
            yield asked, _doctored(trace, asked, seen[0] + 1, seen[1])


def _is_last(asked: Asked, seen: State, told_of: State) -> bool:
    """Whether nobody had yet been told of a state after the one that an answer tells of."""
    if asked.told["told"] == "Fenced":
        return bool(asked.told["current"] == seen[1])
    return told_of == seen or bool(asked.told["told"] == "Committed")


def _is_conflict(asked: Asked) -> bool:
    return asked.told["told"] == "Conflict" and asked.told["expected"] is not None


def _is_fenced(asked: Asked) -> bool:
    return bool(asked.told["told"] == "Fenced")


def _is_replayed(asked: Asked) -> bool:
    return asked.told["told"] == "Committed" and bool(asked.told["replayed"])


_DOCTORS = {"version": _is_conflict, "epoch": _is_fenced, "operation": _is_replayed}
GUARDS = tuple(_DOCTORS)


def doctored(trace: Recorded, guard: str) -> Iterator[tuple[Asked, Recorded]]:
    """Yield the trace as it would be had a guard been ignored, for each time that it was not."""
    yield from _changed(trace, _DOCTORS[guard])


def breaches(trace: Recorded, guard: str) -> list[str]:
    """Return the operations that a store without a guard let through, in the order of the log.

    `version`, `epoch`: what is in the log and was computed from something else.  `operation`: what
    conflicted with what its own sending had made before, whose answer was lost.
    """
    plans = trace.plans()
    if guard == "operation":
        return [op_id for op_id, told in _refused_all_the_same(trace) if told == "Conflict"]
    found, exists = [], False
    for _, _, version, epoch, kind, _, op_id in trace.log():
        bases = [plan["expects"][0][1:] for plan in plans[op_id]]
        if guard == "version":
            fits = any(base[0] == version - 1 or (base[0] is None and not exists) for base in bases)
        else:
            fits = any(base[1] in (None, epoch) for base in bases)
        found += [] if fits else [op_id]
        exists = kind == "put"
    return found


def suspects(trace: Recorded, guard: str) -> list[str]:
    """Return the operations that may be found to have been let through.

    A lease that holds an operation back, after a sending of it that was lost and applied, is found
    only where somebody had seen what it made: until then it may have been on its way.
    """
    if guard == "operation":
        return [op_id for op_id, _ in _refused_all_the_same(trace)]
    return breaches(trace, guard)[:1]


def _refused_all_the_same(trace: Recorded) -> list[tuple[str, str]]:
    """Return the operations that were refused after a sending whose answer was lost was applied,
    and by what."""
    applied = {(entry[6], entry[2]) for entry in trace.log()}
    answered = {(asked.file, asked.ask["n"]) for asked in trace.answered()}
    lost = {
        line["op_id"]: line
        for file, lines in trace.files.items()
        for line in lines
        if line.get("ask") == "Commit" and (file, line["n"]) not in answered
    }
    return [
        (op_id, asked.told["told"])
        for asked in trace.answered()
        if asked.ask["ask"] == "Commit" and asked.told["told"] != "Committed"
        if (op_id := asked.ask["op_id"]) in lost and lost[op_id]["at"] < asked.ask["at"]
        if (op_id, (lost[op_id]["expects"][0][1] or 0) + 1) in applied
    ]
