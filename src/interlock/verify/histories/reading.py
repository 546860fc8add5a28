"""Reads and writes histories: JSON lines, one operation a line (docs/how-to/histories.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, cast

from interlock.verify.histories.operations import (
    ABSENT,
    APPEND,
    CAS,
    KINDS,
    OK,
    OUTCOMES,
    READ,
    TXN,
    WRITE,
    MalformedHistory,
    Operation,
    State,
    States,
)

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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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

    def wrong(self, field: str, value: Any, problem: str) -> MalformedHistory:
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

    def _decoded(self, line: str | bytes) -> dict[str, Any]:
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

    def _process(self, raw: dict[str, Any]) -> str:
        name = raw.get("process")
        if isinstance(name, str | int) and not isinstance(name, bool) and name != "":
            return str(name)
        raise self.wrong("process", name, "must be a name or a number: who asked for it")

    def _id(self, raw: dict[str, Any]) -> str:
        name = raw.get("id", "")
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise self.wrong("id", name, "must be text or a number")
        name = str(name)
        if name and self.ids.setdefault(name, self.line) != self.line:
            raise self.wrong("id", name, f"is that of line {self.ids[name]}, too; ids are unique")
        return name

    def _times(self, raw: dict[str, Any], outcome: str) -> tuple[float, float | None]:
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
        self, raw: dict[str, Any], kind: str, outcome: str
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

    def _touched(self, raw: dict[str, Any], field: str, least: int) -> dict[str, States]:
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

    def _scans(self, raw: dict[str, Any]) -> dict[str, Mapping[str, State]]:
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

    def _state(self, field: str, given: Any, least: int) -> State:
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
