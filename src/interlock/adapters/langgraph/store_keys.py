"""Where the items of a store live in a space.

    langgraph/store/<label>/<label>/=<key>          one item
    langgraph/refreshed/<label>/<label>/=<key>      when an item with a time to live was last read

Labels and keys are percent-encoded, so that any text is safe.  A path that is too long keeps as
many labels as fit and ends in `#` and a digest of all of it; the item itself says what it is.
"""

from __future__ import annotations

import hashlib
import json
from urllib.parse import quote

from interlock import Invalid

ITEMS, REFRESHED = "langgraph/store/", "langgraph/refreshed/"
_LONGEST = 480  # bytes of a path after ITEMS or REFRESHED; a key of a space has at most 512
_KEPT = 360  # bytes of labels that stay readable in a path that is too long


def item_key(namespace: tuple[str, ...], key: str) -> str:
    """Return the key of the space that an item is at."""
    path = "/".join((*map(_quoted, namespace), f"={_quoted(key)}"))
    if len(path) > _LONGEST:
        digest = hashlib.sha256(json.dumps([namespace, key]).encode()).hexdigest()
        path = "/".join((*_fitting(namespace), f"#{digest}"))
    return ITEMS + path


def refresh_key(at: str) -> str:
    """Return the key that says when the item at the key `at` was last read."""
    return REFRESHED + at.removeprefix(ITEMS)


def scan_prefix(namespace: tuple[str, ...]) -> str:
    """Return what the keys of all items under a namespace begin with, and maybe of some others."""
    return ITEMS + "".join(f"{label}/" for label in _fitting(namespace))


def _fitting(namespace: tuple[str, ...]) -> list[str]:
    """Return the first labels, as many as stay readable."""
    kept: list[str] = []
    size = 0
    for label in map(_quoted, namespace):
        size += len(label) + 1
        if size > _KEPT:
            break
        kept.append(label)
    return kept


def _quoted(text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as problem:
        raise Invalid(f"{text!r:.60} holds a lone surrogate, which UTF-8 cannot carry") from problem
