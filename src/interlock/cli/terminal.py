"""What is printed from a store cannot steer the terminal that shows it.

Keys, agents' names, values and errors are other people's text.  Control characters and those that
reverse the direction of writing are printed as JSON escapes them: `\\u009b`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES = "\u2028\u2029"
_HARMFUL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDIRECTIONAL}{_LINES}]")
_BUT_OURS = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f{_BIDIRECTIONAL}{_LINES}]")


def escaped(text: str) -> str:
    """Return `text` with harmful characters escaped; inside JSON it stays the same value."""
    return _HARMFUL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class _Escaping:
    """A text stream that escapes what is written to it."""

    def __init__(self, stream: TextIO, harmful: re.Pattern[str]) -> None:
        self._stream = stream
        self._harmful = harmful

    @property
    def rich_proxied_file(self) -> Any:
        """Where rich writes instead: it steers the terminal itself, and its cells are escaped."""
        return _Escaping(self._stream, _BUT_OURS) if self._harmful is _HARMFUL else self

    def write(self, text: str) -> int:
        self._stream.write(self._harmful.sub(_escape, text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def escaping() -> Iterator[None]:
    """Escape what is printed meanwhile."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Escaping(stream, _HARMFUL) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
