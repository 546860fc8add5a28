"""Patterns of keys: `booking/*`, `agent/{agent}/**`, `plan.md`; which is the more specific one.

A pattern is a path like a key.  A segment `*` stands for any one segment, `{agent}` for one that
names the agent who owns the key, and `**`, at the end, for one or more segments.
"""

from __future__ import annotations

from interlock.core.keys import check_key
from interlock.core.outcome import Invalid

ANY, OWNER, REST = "*", "{agent}", "**"
_WILD = (ANY, OWNER)


def check_pattern(pattern: object) -> Invalid | None:
    """Return why `pattern` is not a pattern, or None when it is one."""
    if not isinstance(pattern, str):
        return Invalid(f"A pattern is a str, not {type(pattern).__name__}: {pattern!r:.60}")
    segments = pattern.split("/")
    if REST in segments[:-1]:
        return Invalid(
            f"Pattern {pattern!r} has '**' before its end. Only the last segment may be '**'."
        )
    if segments.count(OWNER) > 1:
        return Invalid(f"Pattern {pattern!r} names {{agent}} twice.")
    plain = "/".join("x" if segment in (ANY, OWNER, REST) else segment for segment in segments)
    wrong = check_key(plain)
    if wrong is not None:
        return Invalid(
            f"Pattern {pattern!r} is not a path of names, '*', '{{agent}}' and a final '**'. "
            f"{wrong.message}"
        )
    return None


def matches(pattern: str, key: str) -> bool:
    """Whether `key` is among the keys that `pattern` stands for."""
    return _within(key.split("/"), pattern.split("/"))


def owner(pattern: str, key: str) -> str | None:
    """Return the agent that `key` belongs to: the segment where `pattern` has `{agent}`."""
    for mine, segment in zip(pattern.split("/"), key.split("/"), strict=False):
        if mine == OWNER:
            return segment
    return None


def narrower(one: str, other: str) -> bool:
    """Whether every key of `one` is a key of `other`."""
    return _within(one.split("/"), other.split("/"))


def shared_key(one: str, other: str) -> str | None:
    """Return an example of a key that both patterns stand for, None where there is none."""
    first, second = one.split("/"), other.split("/")
    example = []
    for index in range(max(len(first), len(second))):
        a, b = _segment(first, index), _segment(second, index)
        if a is None or b is None or (a not in (*_WILD, REST) and b not in (*_WILD, REST, a)):
            return None
        example.append(next((s for s in (a, b) if s not in (*_WILD, REST)), "x"))
    return "/".join(example)


def fixed_prefix(pattern: str) -> str:
    """Return the text that every key of `pattern` begins with."""
    fixed: list[str] = []
    for segment in pattern.split("/"):
        if segment in (*_WILD, REST):
            return "/".join([*fixed, ""])
        fixed.append(segment)
    return pattern


def _segment(segments: list[str], index: int) -> str | None:
    if index < len(segments):
        return segments[index]
    return REST if segments[-1] == REST else None


def _within(segments: list[str], pattern: list[str]) -> bool:
    for index, mine in enumerate(pattern):
        if mine == REST:
            return len(segments) > index
        if index >= len(segments):
            return False
        theirs = segments[index]
        if theirs == REST or (theirs != mine and mine not in _WILD):
            return False
    return len(segments) == len(pattern)
