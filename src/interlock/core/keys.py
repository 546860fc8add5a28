"""Keys, the patterns that match them, and the values that they hold.

A key is segments with `/` between them, a pattern a key with wildcards: `booking/*`,
`agent/{agent}/**`.  A value is JSON text with integers kept exactly.  Who may write a key lives in
`rules`, merging and comparing values in `merge`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from itertools import chain

from interlock.core.refusals import Forbidden, Invalid
from interlock.core.struct import Json, is_result
from interlock.core.types import to_json

MAX_KEY_BYTES = 512
MAX_NAME_BYTES = 128
_PATTERN_CHARACTERS = "*{}"
# What adapters keep, in a form of their own.  Only the adapter writes it: servers neither show nor
# take keys that begin so, and the command line writes none.
RESERVED = {
    "adk/": "the Google ADK adapter",
    "agent-framework/": "the Agent Framework adapter",
    "autogen/": "the AutoGen adapter",
    "claude-agent/": "the Claude Agent adapter",
    "claude-code/": "the hooks of Claude Code",
    "crewai/": "the CrewAI adapter",
    "fastmcp/": "the FastMCP adapter",
    "langgraph/": "the LangGraph adapter",
    "llama-index/": "the LlamaIndex adapter",
    "openai-agents/": "the OpenAI Agents adapter",
    "pydantic-ai/": "the pydantic-ai adapter",
    "strands/": "the Strands adapter",
}
ANY, OWNER, REST = "*", "{agent}", "**"
_WILD = (ANY, OWNER)
DEFAULT_MAX_VALUE_BYTES = 1024 * 1024
MAX_DEPTH = 200  # levels; a fixed limit, so that whoever reads a value can decode it, too
_LARGE = 1 << 16  # characters, from which on it pays to import msgspec
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SCALARS = (str, int, float, bool, type(None))


def check_key(key: object) -> Invalid | None:
    """Return why `key` is not a key, or None when it is one."""
    return _check_text(key) if isinstance(key, str) else _problem("key", key, MAX_KEY_BYTES)


@lru_cache(maxsize=4096)
def _check_text(key: str) -> Invalid | None:
    problem = _problem("key", key, MAX_KEY_BYTES)
    if problem is not None:
        return problem
    if key.startswith("$"):
        return Invalid(f"Keys that begin with '$' are reserved: {key!r}.", key)
    for segment in key.split("/"):
        if not segment:
            return Invalid(
                f"Key {key!r} has an empty segment: no '/' at either end.",
                key,
            )
        if segment != segment.strip():
            return Invalid(f"Key {key!r} has white space at the end of segment {segment!r}.", key)
        if segment in (".", ".."):
            return Invalid(f"Key {key!r} has the segment {segment!r}, which names a folder.", key)
    for character in _PATTERN_CHARACTERS:
        if character in key:
            return Invalid(f"Key {key!r} contains {character!r}, which only patterns may use.", key)
    return None


def check_unreserved(key: object) -> Forbidden | None:
    """Return why `key` is an adapter's and nobody else's, or None when it is not."""
    for prefix, owner in RESERVED.items():
        if isinstance(key, str) and key.startswith(prefix):
            message = f"{key!r} belongs to {owner}: only it reads and writes '{prefix}...'."
            return Forbidden(message, key, f"{prefix}**", "reserved")
    return None


def check_prefix(prefix: object) -> Invalid | None:
    """Return why `prefix` cannot begin a key, or None when it can.

    The empty prefix is every key.
    """
    if prefix == "":
        return None
    problem = _problem("prefix", prefix, MAX_KEY_BYTES)
    if problem is not None:
        return problem
    assert isinstance(prefix, str)
    for character in _PATTERN_CHARACTERS:
        if character in prefix:
            return Invalid(
                f"Prefix {prefix!r} contains {character!r}. A prefix is plain text like 'booking/'."
            )
    return None


def check_all(keys: Iterable[object], prefixes: Iterable[object]) -> Invalid | None:
    """Return what is wrong with the first of `keys` and `prefixes` that cannot be one."""
    problems = chain(map(check_key, keys), map(check_prefix, prefixes))
    return next((problem for problem in problems if problem is not None), None)


def check_name(what: str, name: object) -> Invalid | None:
    """Return why `name` cannot name a space, an agent or an operation (`what` says which)."""
    problem = _problem(what, name, MAX_NAME_BYTES)
    if problem is None and isinstance(name, str) and name != name.strip():
        return Invalid(f"{_cap(what)} {name!r} has white space at an end.")
    return problem


def prefix_end(prefix: str) -> str | None:
    """Return the first text after every text that begins with `prefix`; None if there is none.

    Order is that of UTF-8 bytes, which is that of code points.
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if 0xD800 <= code <= 0xDFFF:
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:index] + chr(code)
    return None


def _problem(what: str, text: object, limit: int) -> Invalid | None:
    if not isinstance(text, str):
        return Invalid(f"{_a(what)} is a str, not {type(text).__name__}: {text!r:.60}")
    if not text:
        return Invalid(f"{_a(what)} can't be empty.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return Invalid(
            f"{_cap(what)} {text!r:.60} contains a lone surrogate, which UTF-8 can't encode."
        )
    if size > limit:
        return Invalid(f"{_cap(what)} {text[:40]!r}... has {size} bytes; the limit is {limit}.")
    if not text.isprintable():
        return Invalid(f"{_cap(what)} {text!r:.60} contains a character that can't be printed.")
    return None


def _a(what: str) -> str:
    return f"{'An' if what[0] in 'aeiou' else 'A'} {what}"


def _cap(what: str) -> str:
    return what[0].upper() + what[1:]


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
    """Return an example of a key that both patterns stand for, None if there is none."""
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


class Deletion(Enum):
    """What the function of an update returns to delete the key: `interlock.DELETE`."""

    DELETE = "DELETE"

    def __repr__(self) -> str:
        return "interlock.DELETE"


DELETE = Deletion.DELETE


def encode(value: Json, limit: int = DEFAULT_MAX_VALUE_BYTES) -> str | Invalid:
    """Return `value` as compact JSON text, or why it is not a value.  `limit` is in UTF-8 bytes.

    Typed objects in it (dataclasses and such) become JSON.
    """
    try:
        wrong = _not_json(value, "value", 1)
        if wrong is not None:
            value = to_json(value)
            if isinstance(value, Invalid):
                return value
            wrong = _not_json(value, "value", 1)
        if wrong is not None:
            return Invalid(wrong)
        text = _encoder.encode(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return Invalid("The value contains a lone surrogate, which UTF-8 can't encode.")
    except RecursionError:
        return Invalid("The value is nested too deeply, or contains itself.")
    except (TypeError, ValueError) as problem:
        return Invalid(f"The value is not JSON: {problem}")
    if size > limit:
        return Invalid(
            f"The value has {size:,} bytes; the limit is {limit:,}. "
            "Raise max_value_bytes= or split it."
        )
    return text


def decode(text: str | None) -> Json:
    """Return the value of JSON `text`; None if there is no value."""
    if text is None:
        return None
    return json.loads(text) if len(text) < _LARGE else decode_large(text)


def decode_many(texts: Sequence[str]) -> list[Json]:
    """Return the values of many JSON texts in one pass, several times faster than one by one."""
    values: list[Json] = decode("[" + ",".join(texts) + "]")
    return values


def decode_large(text: str) -> Json:
    """Return the value of JSON `text`, three times as fast as `json` does.

    `json` has the last word about what msgspec refuses: infinity, lone surrogates, faults.
    """
    import msgspec

    try:
        return msgspec.json.decode(text)
    except Exception:
        return json.loads(text)


def _not_json(value: Json, path: str, depth: int) -> str | None:
    """Say what the encoder would silently change: keys that are not str, types made for it."""
    if depth > MAX_DEPTH:
        return f"The value is nested deeper than {MAX_DEPTH} levels, or contains itself."
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{_the(path)} has the key {key!r} ({_a_type(key)}); JSON keys are str."
            if not isinstance(item, _SCALARS) and (
                found := _not_json(item, f"{path}[{key!r}]", depth + 1)
            ):
                return found
        return None
    if isinstance(value, (list, tuple)):
        if is_result(value):
            return f"{_the(path)} is {_a_type(value)}, not JSON."
        for index, item in enumerate(value):
            if not isinstance(item, _SCALARS) and (
                found := _not_json(item, f"{path}[{index}]", depth + 1)
            ):
                return found
        return None
    if isinstance(value, _SCALARS):
        return None
    if value is DELETE:
        return f"{_the(path)} is interlock.DELETE, which only the function of an update may return."
    use = ": use a list" if isinstance(value, (set, frozenset)) else ""
    if depth == 1:
        return f"{'A' + _a_type(value)[1:]} is not JSON{use}."
    return f"{path} is {_a_type(value)}, which is not JSON{use}."


def _the(path: str) -> str:
    return "The value" if path == "value" else path


def _a_type(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
