"""Defaults and the checking of arguments that the two APIs share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from interlock.core import refusals
from interlock.core.keys import DEFAULT_MAX_VALUE_BYTES, check_key, check_name, check_unreserved
from interlock.core.records import Record, as_datetime
from interlock.core.rules import Rule, rule_from_json
from interlock.core.types import to_json
from interlock.core.writer import Writer
from interlock.errors import Invalid, accepted, raise_refusal, raise_refused
from interlock.extras import needs

T = TypeVar("T")

DEFAULT_ATTEMPTS = 20  # thoughts
PAGE = 1000  # entries
WATCH_PAUSE = 1.0  # seconds


def default_agent(host: str) -> str:
    """Return the name of an agent that was given none: host and process id."""
    return f"{host}:{os.getpid()}"


def _host() -> str:
    import socket

    return socket.gethostname()[-100:]


def make_writer(uid: str, space: str, agent: str | None, max_value_bytes: int | None) -> Writer:
    """Return who writes, from the arguments of `open`.  Raises Invalid."""
    host = _host() if agent is None else ""
    name = default_agent(host) if agent is None else agent
    wrong = check_name("space", space) or check_name("agent", name)
    if wrong is not None:
        raise_refusal(wrong)
    limit = DEFAULT_MAX_VALUE_BYTES if max_value_bytes is None else max_value_bytes
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise Invalid(f"max_value_bytes={max_value_bytes!r} must be a number of bytes from 1.")
    return Writer(uid, name, limit, host=host)


def check_slow_commit(seconds: object) -> None:
    """Raise Invalid where `slow_commit` is neither None nor a number of seconds."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (number and seconds >= 0):  # type: ignore[operator]  # it is a number
        raise Invalid(f"slow_commit={seconds!r:.40} must be a number of seconds from 0, or None.")


def check_cipher(cipher: object) -> None:
    """Raise Invalid where `cipher` cannot encrypt and decrypt."""
    able = all(callable(getattr(cipher, name, None)) for name in ("encrypt", "decrypt"))
    if cipher is not None and (isinstance(cipher, type) or not able):
        raise Invalid(f"cipher={cipher!r:.60} must be an object with encrypt() and decrypt().")


def checked_op_id(op_id: str) -> str:
    """Return an operation id that the caller chose.  Raises Invalid."""
    wrong = check_name("operation id", op_id)
    if wrong is not None:
        raise_refusal(wrong)
    return op_id


def contribution_id(key: str, item: object, id: str | None, dedupe: bool) -> str | None:
    """Return the operation id of a contribution that must count once, None for one that is new.

    Raises Invalid.
    """
    wrong = check_key(key)
    if wrong is not None:
        raise_refusal(wrong)
    if id is None and not dedupe:
        return None
    if id is not None:
        wrong = check_name("contribution id", id)
        if wrong is not None:
            raise_refusal(wrong)
        text = json.dumps(["id", key, id])
    else:
        try:
            text = json.dumps(["content", key, accepted(to_json(item))], sort_keys=True)
        except (TypeError, ValueError, RecursionError) as problem:
            raise Invalid(f"The item is not JSON: {problem}") from problem
    import hashlib  # at run time only where it is used: importing it takes long

    return "once-" + hashlib.sha256(text.encode()).hexdigest()[:40]


def distinct(
    keys: Iterable[str], check: Callable[[object], refusals.Invalid | None] = check_key
) -> tuple[str, ...]:
    """Return each key once, in the order asked.  Raises Invalid."""
    found: dict[str, None] = {}
    if not isinstance(keys, Iterable):
        raise Invalid(f"Name the keys as a list of str, not {type(keys).__name__}.")
    for key in (keys,) if isinstance(keys, str) else keys:
        wrong = check(key)
        if wrong is not None:
            raise_refusal(wrong)
        found[key] = None
    return tuple(found)


def written_pairs(writes: Iterable[tuple[Record, Any]]) -> list[tuple[Record, Any]]:
    """Return pairs of a record and its value, each of another key.  Raises Invalid."""
    pairs = listed(writes, "write_many", "pairs of a record and its value")
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise Invalid("write_many() takes pairs of a record and its value.")
        if not isinstance(pair[0], Record):
            raise Invalid(
                f"Expected a Record, got {type(pair[0]).__name__}. "
                "Pass the record that space.read() returned."
            )
    keys = [record.key for record, _ in pairs]
    if len(distinct(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Invalid(f"write_many() names {twice!r} twice: one of the values would be lost.")
    return pairs


def by_key(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return values by key.  Raises Invalid where they are something else."""
    if not isinstance(values, Mapping):
        raise Invalid(f"create_many() takes values by key, not {type(values).__name__}.")
    return values


def listed(items: Iterable[T], call: str, what: str) -> list[T]:
    """Return what a call was given several of; texts and objects are one.  Raises Invalid."""
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise Invalid(f"{call}() takes a list of {what}, not {type(items).__name__}.")
    return list(items)


def distinct_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return keys that are to be leased together, sorted.  Raises Invalid."""
    if not isinstance(keys, str) and isinstance(keys, Iterable):
        keys = list(keys)  # it may be read only once
    found = distinct(keys)
    names = [keys] if isinstance(keys, str) else [*keys]
    if not found:
        raise Invalid("leases() needs at least one key.")
    if len(found) < len(names):
        twice = next(key for key in found if names.count(key) > 1)
        raise Invalid(f"leases() names {twice!r} twice: it would wait for itself.")
    return tuple(sorted(found))


def is_reserved(key: str) -> bool:
    """Whether `key` belongs to an adapter, so that servers do not show it."""
    return check_unreserved(key) is not None


def refuse_reserved(keys: Iterable[object]) -> None:
    """Raise Forbidden where one of `keys` belongs to an adapter.

    For surfaces that take keys from outside: servers, the command line.
    """
    for key in keys:
        raise_refused(check_unreserved(key))


def as_time_us(position: int | None, time: datetime | float | None) -> int | None:
    """Return the time of `at` in microseconds, None where a position was given.  Raises Invalid."""
    if (position is None) == (time is None):
        raise Invalid("at() takes either position= or time=.")
    if time is None:
        return None
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise Invalid(f"time={time!r} has no time zone. Use one, as in datetime.now(UTC).")
        return (time - as_datetime(0)) // timedelta(microseconds=1)
    if isinstance(time, bool) or not isinstance(time, int | float) or not abs(time) < 1e12:
        raise Invalid(f"time={time!r} must be an aware datetime or Unix seconds.")
    return int(time * 1e6)


def check_validator(rules: object) -> None:
    """Raise NotInstalled if rules have a schema, and what checks it is missing or too old."""
    declared = rules.values() if isinstance(rules, Mapping) else ()
    if any(getattr(rule, "schema", None) is not None for rule in declared):
        with needs("jsonschema", "schema"):
            import jsonschema  # noqa: F401  # whether it is there


def rules_from_json(data: object) -> dict[str, Rule]:
    """Return rules by pattern out of JSON as `interlock rules show --json` prints it.

    A rule that this version of Interlock does not know can only be applied to a space that has it.
    Raises Invalid if `data` is no object.
    """
    if not isinstance(data, dict):
        raise Invalid(f"Rules are an object from patterns to rules, not {data!r:.60}")
    return {pattern: rule_from_json(rule, {}) for pattern, rule in data.items()}
