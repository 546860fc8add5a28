"""Histories: operations, the states of keys that they saw and made, and what a check says of them.

A history is read from a file of JSON lines and written to one, one operation a line.
docs/how-to/histories.md has the format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn, cast

from interlock import Json
from interlock.core import refusals
from interlock.errors import Invalid

READ, WRITE, CAS, APPEND, TXN = "read", "write", "cas", "append", "txn"
KINDS = (READ, WRITE, CAS, APPEND, TXN)
OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
OUTCOMES = (OK, FAILED, UNKNOWN)
ABSENT = "null"  # the value of a key that does not exist, as JSON

_SHOWN = 60  # characters of a value in a message


class _Malformed(refusals.Invalid):
    @property
    def next_step(self) -> str:
        return "Correct the file (docs/how-to/histories.md)."


class MalformedHistory(Invalid):
    """A file that is not a history: `file`, `line`, `field` and the `value` that is wrong.

    `line` is 0 where the file as a whole cannot be read, `field` is "" where no one field is wrong.
    """

    def __init__(self, file: str, line: int, field: str, value: object, problem: str) -> None:
        place = f"{file}, line {line}" if line else file
        named = f": {field}" if field else ""
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
        told = f" is {shown};" if field else f": {shown}:" if value is not None else ":"
        super().__init__(_Malformed(f"{place}{named}{told} {problem}"))
        self.file, self.line, self.field, self.value = file, line, field, value
        self._problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.file, self.line, self.field, self.value, self._problem)


class State(NamedTuple):
    """A state of one key: its version, its value as JSON text; None for what was not recorded.

    Version 0 with the value null is a key that was never written.
    """

    version: int | None = None
    text: str | None = None

    @property
    def value(self) -> Json:
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

    def to_json(self) -> Json:
        """Return it as the format writes it."""
        if self.text is None and self.version is not None:
            return self.version
        told: dict[str, Json] = {} if self.version is None else {"version": self.version}
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

    def to_json(self) -> dict[str, Json]:
        """Return the object that a line of the format holds."""
        told: dict[str, Json] = {"process": self.process, "kind": self.kind}
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


def _single(operation: Operation) -> dict[str, Json]:
    key = next(iter(operation.writes or operation.reads))
    told: dict[str, Json] = {"key": key}
    main = next(iter((operation.writes or operation.reads)[key]), State())
    if main.version is not None:
        told["version"] = main.version
    if main.text is not None:
        told["value"] = json.loads(main.text)
    if operation.kind == CAS:
        told["expect"] = operation.reads[key][0].to_json()
    return told


def _written(states: States) -> Json:
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


_COMMON = {"process", "kind", "invoked", "completed", "outcome", "id"}
_FIELDS = {
    READ: _COMMON | {"key", "version", "value"},
    WRITE: _COMMON | {"key", "version", "value"},
    CAS: _COMMON | {"key", "version", "value", "expect"},
    APPEND: _COMMON | {"key", "version", "value"},
    TXN: _COMMON | {"reads", "writes", "scans"},
}
_STATE = 'give a version (an integer), or an object with "version", "value" or both'
_FOREVER = 1e300
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def read_history(path: str | os.PathLike[str]) -> list[Operation]:
    """Read a history from a file of JSON lines.

    Raises MalformedHistory, which names the file, the line, the field and the value.
    """
    file = os.fspath(path)
    try:
        with open(file, "rb") as lines:
            return parse_history(lines, file)
    except OSError as problem:
        reason = f"it cannot be read ({problem.strerror}); check the path"
        raise MalformedHistory(file, 0, "", None, reason) from problem


def parse_history(lines: Iterable[str | bytes], file: str = "history") -> list[Operation]:
    """Read a history from lines of JSON; `file` is the name for messages.

    Raises MalformedHistory.
    """
    reader = _Reader(file)
    return [reader.operation(number, line) for number, line in enumerate(lines, 1)]


def write_history(path: str | os.PathLike[str], history: Iterable[Operation]) -> None:
    """Write a history to a file of JSON lines, in place of what is there.  Raises OSError."""
    with open(path, "w", encoding="utf-8") as file:
        for operation in history:
            file.write(json.dumps(operation.to_json(), ensure_ascii=False) + "\n")


class _Repeated(ValueError):
    """A name that stands twice in one object."""


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant).raw_decode


class _Reader:
    """Turns lines into operations, and knows where it is for its messages."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.line = 0
        self.ids: dict[str, int] = {}
        self.texts: dict[str, str] = {}

    def wrong(self, field: str, value: object, problem: str) -> MalformedHistory:
        return MalformedHistory(self.file, self.line, field, value, problem)

    def operation(self, number: int, line: str | bytes) -> Operation:
        self.line = number
        raw = self._decoded(line)
        kind = raw.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise self.wrong("kind", kind, f"must be one of {', '.join(KINDS)}")
        if not raw.keys() <= _FIELDS[kind]:
            for name in raw.keys() - _FIELDS[kind]:
                known = ", ".join(sorted(_FIELDS[kind]))
                raise self.wrong(name, raw[name], f"{kind} has no such field; it has {known}")
        outcome = raw.get("outcome")
        if not isinstance(outcome, str) or outcome not in OUTCOMES:
            raise self.wrong("outcome", outcome, f"must be one of {', '.join(OUTCOMES)}")
        invoked, completed = self._times(raw, outcome)
        if kind == TXN:
            reads = self._touched(raw, "reads", 0)
            writes = self._touched(raw, "writes", 1)
            scans = self._scans(raw)
        else:
            reads, writes = self._single(raw, kind, outcome)
            scans = {}
        return Operation(
            self._process(raw),
            *(kind, reads, writes, scans, invoked, completed, outcome, number),
            self._id(raw),
        )

    def _decoded(self, line: str | bytes) -> dict[str, Json]:
        try:
            text = line if isinstance(line, str) else line.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise self.wrong("", line, f"not UTF-8 at byte {problem.start + 1}") from problem
        text = text.strip(" \t\r\n")
        try:
            raw, end = _decode(text)
            if end < len(text):
                raise ValueError(f"there is more after character {end}")
            if "\\u" in text and "\\ud" in text.lower():  # half a character cannot be printed
                _encode(raw).encode("utf-8")
        except _Repeated as problem:
            raise self.wrong("", text, f"has {str(problem)!r} twice; name it once") from problem
        except UnicodeEncodeError as problem:
            raise self.wrong("", text, "holds half a character (a lone surrogate)") from problem
        except (ValueError, RecursionError) as problem:
            raise self.wrong("", text, f"not an operation as JSON: {problem}") from problem
        if not isinstance(raw, dict):
            raise self.wrong("", text, "must be an object, one operation a line")
        return raw

    def _process(self, raw: dict[str, Json]) -> str:
        name = raw.get("process")
        if isinstance(name, str | int) and not isinstance(name, bool) and name != "":
            return str(name)
        raise self.wrong("process", name, "must be a name or a number: who asked for it")

    def _id(self, raw: dict[str, Json]) -> str:
        name = raw.get("id", "")
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise self.wrong("id", name, "must be text or a number")
        name = str(name)
        if name and self.ids.setdefault(name, self.line) != self.line:
            raise self.wrong("id", name, f"is that of line {self.ids[name]}, too; ids are unique")
        return name

    def _times(self, raw: dict[str, Json], outcome: str) -> tuple[float, float | None]:
        invoked, completed = raw.get("invoked"), raw.get("completed")
        for name, value in (("invoked", invoked), ("completed", completed)):
            # Not a bool, which is an int; nor NaN, nor more than a float holds.
            if type(value) in (float, int) and -_FOREVER < cast(float, value) < _FOREVER:
                continue
            if name == "invoked" or value is not None:
                raise self.wrong(name, value, "must be a time, as a number")
            if outcome == OK:
                raise self.wrong(name, value, "must be a time where the outcome is ok")
        if completed is not None and completed < (invoked or 0):
            raise self.wrong("completed", completed, f"is before it was invoked, {invoked}")
        return invoked, completed  # type: ignore[return-value]  # a number: the loop above

    def _single(
        self, raw: dict[str, Json], kind: str, outcome: str
    ) -> tuple[dict[str, States], dict[str, States]]:
        key = raw.get("key")
        if not isinstance(key, str):
            raise self.wrong("key", key, "must be text")
        given = {name: raw[name] for name in ("version", "value") if name in raw}
        if kind == READ and not given and outcome != OK:
            return {key: ()}, {}
        if not given and kind != APPEND:
            problem = 'give "version", "value" or both: what was read or written'
            raise self.wrong("version", None, problem)
        if kind == READ:
            return {key: (self._state("version", given, 0),)}, {}
        if kind == APPEND and "value" not in raw:
            raise self.wrong("value", None, "must be the item that was appended")
        writes: dict[str, States] = {key: (self._state("version", given, 1),)}
        if kind != CAS:
            return {}, writes
        if "expect" not in raw:
            raise self.wrong("expect", None, f"must be what the key had to be; {_STATE}")
        return {key: (self._state("expect", raw["expect"], 0),)}, writes

    def _touched(self, raw: dict[str, Json], field: str, least: int) -> dict[str, States]:
        given = raw.get(field, {})
        if not isinstance(given, dict):
            raise self.wrong(field, given, "must be an object of keys and their states")
        found: dict[str, States] = {}
        for key, value in given.items():
            if type(value) is int and value >= least:
                found[key] = (State(value, None),)
            elif isinstance(value, list) and value:
                name = f"{field}.{key}"
                found[key] = tuple(self._state(name, each, least) for each in value)
            else:
                found[key] = (self._state(f"{field}.{key}", value, least),)
        return found

    def _scans(self, raw: dict[str, Json]) -> dict[str, Mapping[str, State]]:
        given = raw.get("scans", {})
        if not isinstance(given, dict):
            raise self.wrong("scans", given, "must be an object of prefixes and what was there")
        found: dict[str, Mapping[str, State]] = {}
        for prefix, there in given.items():
            name = f"scans.{prefix}"
            if not isinstance(there, dict):
                raise self.wrong(name, there, "must be an object of keys and their states")
            for key in there:
                if not key.startswith(prefix):
                    raise self.wrong(name, key, "is a key that does not begin with the prefix")
            found[prefix] = {
                key: self._state(f"{name}.{key}", value, 1) for key, value in there.items()
            }
        return found

    def _state(self, field: str, given: Json, least: int) -> State:
        """Return a state; `least` is the smallest version that it may have."""
        if not isinstance(given, dict):
            given = {"version": given}
        if not given or given.keys() - {"version", "value"}:
            raise self.wrong(field, given, _STATE)
        version, text = given.get("version"), None
        if "version" in given and (type(version) is not int or version < least):
            problem = f"must be an integer, at least {least}; or {_STATE}"
            raise self.wrong(field, version, problem)
        if "value" in given:
            text = _encode(given["value"])
            text = self.texts.setdefault(text, text)
        if version == 0 and text not in (None, ABSENT):
            raise self.wrong(field, given, "version 0 is a key never written; its value is null")
        return State(version, text)


class Dependency(NamedTuple):
    """Why `before` must come before `after`: one edge of a cycle.

    `kind` is `ww` (wrote the version before), `wr` (wrote what was read), `rw` (read the version
    before), or `rt` (completed before the other was invoked); `scan` says that an `rw` is by a
    scanned prefix that the key was not in.
    """

    kind: str
    key: str
    before: Operation
    after: Operation
    scan: str | None = None

    def __str__(self) -> str:
        first, then = (each.id or f"line {each.line}" for each in (self.before, self.after))
        if self.kind == "rt":
            return f"{first} had completed before {then} was invoked"
        if self.scan is not None:
            return f"{first} scanned {self.scan} without {self.key}, which {then} made (rw)"
        told = {
            "ww": f"{first} wrote {self.key} before {then} overwrote it",
            "wr": f"{first} wrote {self.key} as {then} read it",
            "rw": f"{first} read {self.key} before {then} overwrote it",
        }
        return f"{told[self.kind]} ({self.kind})"


class Anomaly(NamedTuple):
    """One thing that must not happen: its `name`, the keys, the operations, and why.

    `dependencies` is the cycle, in order, where the anomaly is one.  `explanation` says it in
    words.
    """

    name: str
    keys: tuple[str, ...]
    operations: tuple[Operation, ...]
    dependencies: tuple[Dependency, ...]
    explanation: str

    def __str__(self) -> str:
        shown = [f"{self.name} on {', '.join(self.keys) or 'no key'}: {self.explanation}"]
        shown += [f"  {operation}" for operation in self.operations]
        shown += [f"  because {dependency}" for dependency in self.dependencies]
        return "\n".join(shown)

    def to_json(self) -> dict[str, Json]:
        """Return it as `interlock check --json` prints it."""
        return {
            "name": self.name,
            "keys": list(self.keys),
            "explanation": self.explanation,
            "operations": [{"line": o.line, **o.to_json()} for o in self.operations],
            "cycle": [
                {"kind": d.kind, "key": d.key, "before": d.before.line, "after": d.after.line}
                | ({"scan": d.scan} if d.scan is not None else {})
                for d in self.dependencies
            ],
        }


class Verdict(NamedTuple):
    """What a check found.  `anomalies`: shortest first; `undecided`: what it could not decide.

    `found` is how many anomalies there are, also where not all of them are in `anomalies`.
    """

    model: str
    checked: int
    anomalies: tuple[Anomaly, ...]
    undecided: tuple[str, ...]
    found: int

    @property
    def ok(self) -> bool:
        """Whether everything was decided, and nothing was found."""
        return not self.anomalies and not self.undecided

    @property
    def outcome(self) -> str:
        """The verdict in a word: `ok`, `anomalies` or `undecided`."""
        return "anomalies" if self.anomalies else "undecided" if self.undecided else "ok"

    def headline(self) -> str:
        """Say the verdict in one line."""
        if self.ok:
            return f"{self.checked} operations are {self.model}"
        if not self.anomalies:
            return f"{self.checked} operations: undecided whether they are {self.model}"
        many = f"{self.found} anomal{'y' if self.found == 1 else 'ies'}"
        return f"{self.checked} operations are not {self.model}: {many}"

    def __str__(self) -> str:
        shown = [self.headline(), *map(str, self.anomalies)]
        if self.found > len(self.anomalies):
            shown.append(f"... and {self.found - len(self.anomalies)} more")
        return "\n".join([*shown, *(f"undecided: {reason}" for reason in self.undecided)])

    def to_json(self) -> dict[str, Json]:
        """Return it as `interlock check --json` prints it."""
        return {
            "model": self.model,
            "verdict": self.outcome,
            "operations": self.checked,
            "found": self.found,
            "anomalies": [anomaly.to_json() for anomaly in self.anomalies],
            "undecided": list(self.undecided),
        }
