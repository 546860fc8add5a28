"""What a history consists of: operations, and the states of keys that they saw and made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from interlock.core import outcome as refusals
from interlock.errors import Invalid

READ, WRITE, CAS, APPEND, TXN = "read", "write", "cas", "append", "txn"
KINDS = (READ, WRITE, CAS, APPEND, TXN)
OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
OUTCOMES = (OK, FAILED, UNKNOWN)
ABSENT = "null"  # the value of a key that does not exist, as JSON

_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class _Malformed(refusals.Invalid):
    next_step: ClassVar[str] = "correct the file (docs/how-to/histories.md)"


class MalformedHistory(Invalid):
    """A file that is not a history: `file`, `line`, `field` and the `value` that is wrong.

    `line` is 0 where the file as a whole cannot be read, `field` is "" where no one field is wrong.
    """

    def __init__(self, file: str, line: int, field: str, value: Any, problem: str) -> None:
        place = f"{file}, line {line}" if line else file
        named = f": {field}" if field else ""
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
        told = f" is {shown};" if field else f": {shown}:" if value is not None else ":"
        super().__init__(_Malformed(f"{place}{named}{told} {problem}"))
        self.file, self.line, self.field, self.value = file, line, field, value
        self._problem = problem

    def __reduce__(self) -> Any:
        return type(self), (self.file, self.line, self.field, self.value, self._problem)


class State(NamedTuple):
    """A state of one key: its version, its value as JSON text; None for what was not recorded.

    Version 0 with the value null is a key that was never written.
    """

    version: int | None = None
    text: str | None = None

    @property
    def value(self) -> Any:
        """The value; None where it was not recorded or the key is absent."""
        return None if self.text is None else json.loads(self.text)

    def __str__(self) -> str:
        if self.version == 0:
            return "absent (version 0)"
        version = "" if self.version is None else f"version {self.version}"
        if self.text is None:
            return version or "something"
        text = self.text if len(self.text) <= _SHOWN else self.text[:_SHOWN] + "..."
        return f"{version} ({text})" if version else text

    def to_json(self) -> Any:
        """Return it as the format writes it."""
        if self.text is None and self.version is not None:
            return self.version
        told: dict[str, Any] = {} if self.version is None else {"version": self.version}
        return told if self.text is None else told | {"value": json.loads(self.text)}


States = tuple[State, ...]


class Operation(NamedTuple):
    """One operation: what it saw (`reads`, `scans`), what it made (`writes`), when, how it ended.

    `reads` and `writes` hold, for each key, the states seen and made, in order.  An append makes
    one state whose value is the item.  `scans` hold, for each prefix, what was there.  `completed`
    is None where no answer came.  `line` is the line of the file, from 1.
    """

    process: str
    kind: str
    reads: Mapping[str, States]
    writes: Mapping[str, States]
    scans: Mapping[str, Mapping[str, State]]
    invoked: float
    completed: float | None
    outcome: str
    line: int
    id: str = ""

    def __str__(self) -> str:
        name = self.id or f"line {self.line}"
        until = "no answer" if self.completed is None else f"{self.completed:g}"
        return f"{name}: {self.process} {self.told()} [{self.invoked:g}-{until}]"

    def told(self) -> str:
        """Say in words what it did."""
        if self.kind != TXN:
            key = next(iter(self.writes or self.reads))
            seen = " then ".join(map(str, self.reads.get(key, ())))
            made = " then ".join(map(str, self.writes.get(key, ())))
            if self.kind == READ:
                text = f"read {key} as {seen}" if seen else f"read {key}"
            elif self.kind == CAS:
                text = f"set {key} from {seen} to {made}"
            else:
                text = f"{'appended to' if self.kind == APPEND else 'wrote'} {key}: {made}"
        else:
            text = "; ".join(_parts(self))
        return text if self.outcome == OK else f"{text} ({self.outcome})"

    def to_json(self) -> dict[str, Any]:
        """Return the object that a line of the format holds."""
        told: dict[str, Any] = {"process": self.process, "kind": self.kind}
        if self.kind == TXN:
            told["reads"] = {key: _written(states) for key, states in self.reads.items()}
            told["writes"] = {key: _written(states) for key, states in self.writes.items()}
            told["scans"] = {
                prefix: {key: state.to_json() for key, state in found.items()}
                for prefix, found in self.scans.items()
            }
            told = {name: field for name, field in told.items() if field}
        else:
            told |= _single(self)
        told |= {"invoked": self.invoked, "completed": self.completed, "outcome": self.outcome}
        return told | ({"id": self.id} if self.id else {})


def _single(operation: Operation) -> dict[str, Any]:
    key = next(iter(operation.writes or operation.reads))
    told: dict[str, Any] = {"key": key}
    main = next(iter((operation.writes or operation.reads)[key]), State())
    if main.version is not None:
        told["version"] = main.version
    if main.text is not None:
        told["value"] = json.loads(main.text)
    if operation.kind == CAS:
        told["expect"] = operation.reads[key][0].to_json()
    return told


def _written(states: States) -> Any:
    return states[0].to_json() if len(states) == 1 else [state.to_json() for state in states]


def _parts(operation: Operation) -> list[str]:
    parts = []
    for verb, touched in (("read", operation.reads), ("wrote", operation.writes)):
        if touched:
            each = [f"{key} {' then '.join(map(str, s))}" for key, s in touched.items()]
            parts.append(f"{verb} {', '.join(each)}")
    for prefix, found in operation.scans.items():
        there = ", ".join(f"{key} {state}" for key, state in found.items()) or "nothing"
        parts.append(f"scanned {prefix} and found {there}")
    return parts or ["nothing"]
