"""The grammar of keys, prefixes and names.  What a key may hold lives in `rules`, not here.

A key is a path of segments joined by `/`: `booking/session_123`, `plan.md`.  Segments are not
empty and hold no control characters, no white space at their ends, and none of `* { }`, which
belong to patterns.  The first segment does not begin with `$`: those keys are the library's own.
Keys under the prefixes of `RESERVED` belong to an adapter.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

from interlock.core.outcome import Forbidden, Invalid

MAX_KEY_BYTES = 512
MAX_NAME_BYTES = 128
_PATTERN_CHARACTERS = "*{}"

# What adapters keep, in a form of their own.  Only the adapter writes it: servers neither show nor
# take keys that begin so, and the command line writes none.
RESERVED = {
    "autogen/": "the AutoGen adapter",
    "crewai/": "the CrewAI adapter",
    "langgraph/": "the LangGraph adapter",
    "openai-agents/": "the OpenAI Agents adapter",
}


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
