"""What changed between two values, line by line."""

from __future__ import annotations

import difflib
import json
from typing import NamedTuple

from interlock import Json

_MOST = 2000  # lines of a value
_AROUND = 3  # lines


class Line(NamedTuple):
    """One line: `mark` is `+`, `-`, a space, or `@` where lines are left out."""

    mark: str
    text: str


def diff(old: Json, new: Json) -> list[Line]:
    """Return the lines that were removed and added, with some around them."""
    found = difflib.unified_diff(_lines(old), _lines(new), n=_AROUND, lineterm="")
    body = list(found)[2:]  # without the names of files
    return [Line(line[0], "" if line.startswith("@@") else line[1:]) for line in body]


def _lines(value: Json) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return value.splitlines()[:_MOST]
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
    return text.splitlines()[:_MOST]
