"""The format of agent traces: one operation per line of JSON, and its strict reader."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from os import PathLike, fspath
from typing import IO, NamedTuple, NoReturn

from interlock import Json
from interlock.core import refusals
from interlock.errors import Invalid, Unavailable

_NAMES = ("session", "id", "agent")
_TIMES = ("read_time", "write_time")
_SETS = ("read_set", "write_set", "read_times")
_TOOLS = ("planned_tools", "tools_at_read", "tools_at_write")
_EFFECTS = ("intended_effects", "committed_effects")
_FIELDS = frozenset((*_NAMES, *_TIMES, *_SETS, *_TOOLS, *_EFFECTS, "predecessors", "aborted"))
_REPORT_EVERY = 1000  # lines


class Operation(NamedTuple):
    """One read-generate-write operation of an agent.

    `session` names the history it belongs to: operations of two sessions share nothing.  `id` is
    unique in its session.  `read_time` and `write_time` are numbers of one clock, in any unit.
    `read_set` and `write_set` map keys to the JSON values read and written.  `planned_tools` are
    the tools it meant to call; `tools_at_read` and `tools_at_write` those that it could see then.
    `intended_effects` and `committed_effects` are JSON values, in order.  `predecessors` are the
    ids of operations of the session that it depends on.  `read_times` holds the read time of keys
    that were read at another moment than `read_time`.
    """

    session: str
    id: str
    agent: str
    read_time: float
    write_time: float
    read_set: Mapping[str, Json] = {}  # never changed, nor is the next
    write_set: Mapping[str, Json] = {}
    planned_tools: tuple[str, ...] = ()
    tools_at_read: tuple[str, ...] = ()
    tools_at_write: tuple[str, ...] = ()
    intended_effects: tuple[Json, ...] = ()
    committed_effects: tuple[Json, ...] = ()
    predecessors: tuple[str, ...] = ()
    aborted: bool = False
    read_times: Mapping[str, float] = {}

    def to_json(self) -> dict[str, Json]:
        """Return the operation as the object of its line; what is empty is left out."""
        shown: dict[str, Json] = {name: getattr(self, name) for name in (*_NAMES, *_TIMES)}
        shown |= {name: dict(value) for name in _SETS if (value := getattr(self, name))}
        for group in (_TOOLS, _EFFECTS, ("predecessors",)):
            if any(getattr(self, name) for name in group):
                shown |= {name: list(getattr(self, name)) for name in group}
        return shown | ({"aborted": True} if self.aborted else {})


class BadTrace(Invalid):
    """A trace that is not in the format: `file`, `line`, `field`, `value` say where and what."""

    def __init__(
        self, file: str, line: int, field: str, value: object, problem: str, next_step: str
    ) -> None:
        where = f"{file}, line {line}: {f'{field} ' if field else ''}{problem}"
        Exception.__init__(self, f"{where}: {_shown(value)}; {next_step}")
        self.outcome = refusals.Invalid(where)
        self.file = file
        self.line = line
        self.field = field
        self.value = value
        self._parts = (file, line, field, value, problem, next_step)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._parts

    @property
    def next_step(self) -> str:
        """What to do next, in a few words."""
        return self._parts[-1]


class _Wrong(ValueError):
    """What is wrong with a line: field, value, problem, next step."""


def read_trace(
    source: str | PathLike[str] | IO[bytes],
    *,
    name: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Operation]:
    """Yield the operations of a JSONL file, in its order.

    `source` is a path, or a binary file that is open.  `name` is what errors call it (default:
    the path).  `progress` is called now and then with the number of bytes read since.

    Raises BadTrace where a line is not an operation, Unavailable where there is no such file.
    What ties lines together (ids, predecessors) is checked by `find_anomalies`.
    """
    if not isinstance(source, (str, PathLike)):
        yield from _read(source, name or "trace", progress)
        return
    path = fspath(source)
    try:
        with open(path, "rb") as file:
            yield from _read(file, name or path, progress)
    except OSError as problem:
        raise Unavailable(f"Can't read {path}: {problem.strerror}") from problem


def _read(
    file: IO[bytes], name: str, progress: Callable[[int], object] | None
) -> Iterator[Operation]:
    size = 0
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(BOM_UTF8)
        try:
            operation = _operation(_parsed(line))
        except _Wrong as wrong:
            raise BadTrace(name, number, *wrong.args) from wrong.__cause__
        if progress is not None:
            size += len(line)
            if number % _REPORT_EVERY == 0:
                progress(size)
                size = 0
        yield operation
    if progress is not None:
        progress(size)


def _parsed(line: bytes) -> dict[str, Json]:
    try:
        value = _decoder.decode(line.decode().strip())
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as problem:
        raise _Wrong("", line, "is not UTF-8", "save the file as UTF-8") from problem
    except UnicodeEncodeError as problem:
        raise _Wrong("", line, "holds a lone surrogate", "write whole characters") from problem
    except RecursionError as problem:
        raise _Wrong("", line, "is nested too deeply", "flatten the values") from problem
    except json.JSONDecodeError as problem:
        step = "write one JSON object per line, and no empty lines"
        why = f"is not JSON ({problem.msg}, column {problem.colno})"
        raise _Wrong("", line, why, step) from problem
    except _Wrong:
        raise
    except ValueError as problem:  # a number of thousands of digits
        raise _Wrong("", line, f"is not readable ({problem})", "shorten it") from problem
    if not isinstance(value, dict):
        raise _Wrong("", value, "is not a JSON object", "write one object per line")
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise _Wrong(twice, dict(pairs)[twice], "is there twice", "keep one of them")
    return made


def _no_constant(text: str) -> NoReturn:
    raise _Wrong("", text, "is not a JSON number", "leave it out, or write null or a number")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _operation(given: dict[str, Json]) -> Operation:
    if not given.keys() <= _FIELDS:
        unknown = next(field for field in given if field not in _FIELDS)
        known = ", ".join((*_NAMES, *_TIMES, *_SETS, *_TOOLS, *_EFFECTS))
        step = f"leave it out; the fields are {known}, predecessors, aborted"
        raise _Wrong(unknown, given[unknown], "is not a field", step)
    session, id, agent = (_text(given, name) for name in _NAMES)
    read_time, write_time = (_number(given, name) for name in _TIMES)
    read_set, read_times = _mapping(given, "read_set"), _mapping(given, "read_times")
    for key in read_times:
        if key not in read_set:
            step = "give read times of keys in read_set"
            raise _Wrong("read_times", key, "holds a key that was not read", step)
    for before in (read_time, *(_number(read_times, key, "read_times ") for key in read_times)):
        if write_time < before:
            step = f"both must be of one clock; it read at {before}"
            raise _Wrong("write_time", write_time, "is before read_time", step)
    _together(given, _TOOLS)
    _together(given, _EFFECTS)
    predecessors = _texts(given, "predecessors")
    if id in predecessors:
        step = "name the operations whose writes it used"
        raise _Wrong("predecessors", id, "holds the operation itself", step)
    aborted = given.get("aborted", False)
    if not isinstance(aborted, bool):
        raise _Wrong("aborted", aborted, "is not true or false", "write true or false")
    return Operation(
        session,
        id,
        agent,
        read_time,
        write_time,
        read_set,
        _mapping(given, "write_set"),
        _texts(given, "planned_tools"),
        _texts(given, "tools_at_read"),
        _texts(given, "tools_at_write"),
        tuple(_items(given, "intended_effects")),
        tuple(_items(given, "committed_effects")),
        predecessors,
        aborted,
        read_times,
    )


def _text(given: dict[str, Json], name: str) -> str:
    value = given.get(name)
    if isinstance(value, str) and value:
        return value
    if name not in given:
        raise _missing(given, name, "a text")
    raise _Wrong(name, value, "is not a text of one character or more", "write a text")


def _number(given: Mapping[str, Json], name: str, of: str = "") -> float:
    value = given.get(name)
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    if name not in given:
        raise _missing(given, name, "a number")
    step = "write a number, such as seconds since some moment"
    raise _Wrong(f"{of}{name}", value, "is not a finite number", step)


def _missing(given: Mapping[str, Json], name: str, kind: str) -> _Wrong:
    return _Wrong(name, given, "is missing", f"add {kind}: every operation has {name}")


def _mapping(given: dict[str, Json], name: str) -> Mapping[str, Json]:
    value = given.get(name, {})
    if isinstance(value, dict):
        return value
    raise _Wrong(name, value, "is not an object", 'write {"key": value, ...}')


def _items(given: dict[str, Json], name: str) -> list[Json]:
    value = given.get(name, [])
    if isinstance(value, list):
        return value
    raise _Wrong(name, value, "is not a list", "write [...], empty where there are none")


def _texts(given: dict[str, Json], name: str) -> tuple[str, ...]:
    value = _items(given, name)
    for item in value:
        if not isinstance(item, str) or not item:
            raise _Wrong(name, item, "holds what is not a text", "write a list of texts")
    return tuple(value)


def _together(given: dict[str, Json], names: tuple[str, ...]) -> None:
    """One of these without the others says nothing: what is not recorded is not empty."""
    missing = [name for name in names if name not in given]
    if missing and len(missing) < len(names):
        step = f"record {', '.join(names)} together, or none of them"
        raise _Wrong(missing[0], given, "is missing", step)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
