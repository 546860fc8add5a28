"""The two things that a Redis server itself writes down: MONITOR's lines, and append-only files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from interlock.errors import Unavailable
from interlock.forensics.commands import Commands, text
from interlock.forensics.history import Event
from interlock.forensics.operations import BadTrace

MONITOR_LINE = re.compile(rb'\+?(\d+\.\d+) \[(\d+) ([^\]]*)\] ("(?:[^"\\]|\\.)*"(?: .*)?)$')
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)")
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_SCRIPTS = (b"EVAL", b"EVALSHA", b"FCALL", b"EVAL_RO", b"EVALSHA_RO", b"FCALL_RO")
# An RDB ends with a byte and a checksum; what follows in the same file are commands.
_AFTER_RDB = re.compile(rb"\xff.{8}(?=\*\d+\r\n\$\d+\r\n[A-Za-z])", re.S)
_LARGEST_RDB = 1 << 30  # bytes that are searched for its end


class Monitor:
    """Makes events of the lines of MONITOR.

    A connection is an agent: its name where it has set one (`CLIENT SETNAME`), else its address.
    What a script does is done by whoever called it.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._commands = Commands(complete=False)
        self._names = dict(names or {})
        self._caller = ""

    def events(self, line: bytes) -> Iterator[Event] | None:
        """Yield the events of a line; None if it is not one of MONITOR's."""
        found = MONITOR_LINE.match(line.rstrip(b"\r\n"))
        if found is None:
            return None
        words = [_unescaped(word) for word in _WORD.findall(found[4])]
        client = text(found[3])
        name = words[0].upper()
        if name in _SCRIPTS:
            self._caller = client
        elif name == b"CLIENT" and len(words) == 3 and words[1].upper() == b"SETNAME":
            self._names[client] = text(words[2])
        elif name == b"HELLO" and b"SETNAME" in (options := [w.upper() for w in words[:-1]]):
            self._names[client] = text(words[options.index(b"SETNAME") + 1])
        client = self._caller if client == "lua" else client
        seconds, _, fraction = found[1].partition(b".")
        time_us = int(seconds) * 1_000_000 + int(fraction[:6].ljust(6, b"0"))
        return self._commands.events(
            words, int(found[2]), time_us, self._names.get(client) or client
        )


def read_monitor(file: IO[bytes], name: str) -> Iterator[Event]:
    """Yield the events of a MONITOR capture.  Raises BadTrace."""
    monitor = Monitor(_names_in(file))
    lines: Iterable[bytes] = file
    for number, line in enumerate(lines, 1):
        if line.strip() in (b"OK", b"+OK", b""):
            continue
        events = monitor.events(line)
        if events is not None:
            yield from events
        elif line.endswith(b"\n"):  # else it was cut off
            step = "save what `redis-cli monitor` prints, and nothing else"
            raise BadTrace(name, number, "", line, "is not a line of MONITOR", step)


def _names_in(file: IO[bytes]) -> dict[str, str]:
    """Return the first name of each connection: a recorder may have learned it late."""
    names: dict[str, str] = {}
    for line in file:
        if b'"SETNAME" ' in line and (found := MONITOR_LINE.match(line.rstrip(b"\r\n"))):
            words = _WORD.findall(found[4])
            names.setdefault(text(found[3]), text(_unescaped(words[-1])))
    file.seek(0)
    return names


def _unescaped(word: bytes) -> bytes:
    if b"\\" not in word:
        return word

    def plain(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code[1:], 16)]) if len(code) == 3 else _PLAIN.get(code, code)

    return _ESCAPED.sub(plain, word)


def append_only_files(folder: Path) -> list[Path]:
    """Return the files of an append-only folder in their order, as its manifest names them.

    Raises Unavailable where there is no manifest.
    """
    manifests = sorted(folder.glob("*.manifest"))
    if not manifests:
        raise Unavailable(f"{folder} has no manifest of an append-only file (*.manifest).")
    files: list[tuple[bool, int, Path]] = []
    for line in manifests[0].read_text("utf-8").splitlines():
        words = line.split()
        fields = dict(zip(words[::2], words[1::2], strict=False))
        if "file" in fields and fields.get("type") in ("b", "i"):
            found = fields["type"] == "i", int(fields.get("seq", 0)), folder / fields["file"]
            files.append(found)
    return [path for _, _, path in sorted(files)]


def read_append_only(paths: Iterable[Path]) -> Iterator[Event]:
    """Yield the events of append-only files, one after the other.  Raises BadTrace.

    Agents are not in them; times only with `aof-timestamp-enabled`, in seconds.  A command that
    was cut off at the end, by a crash or because the server runs, is left out.
    """
    commands = Commands(complete=True)
    db = time_us = 0
    for path in paths:
        with path.open("rb") as file:
            if not _skip_rdb(file):
                continue
            for words in _resp(file, str(path)):
                if isinstance(words, int):
                    time_us = words * 1_000_000
                elif words[0].upper() == b"SELECT":
                    db = int(words[1])
                else:
                    yield from commands.events(words, db, time_us, "")


def begins_with_rdb(path: Path) -> bool:
    """Whether a file holds an RDB that is not empty, of which no commands are known."""
    with path.open("rb") as file:
        start = file.read(4096)
    # An empty one has only auxiliary fields (0xFA), and no database (0xFE) with its size (0xFB).
    return start.startswith(b"REDIS") and re.search(rb"\xfe.\xfb", start, re.S) is not None


def _skip_rdb(file: IO[bytes]) -> bool:
    """Go to where commands begin; whether there are any."""
    start = file.read(5)
    file.seek(0)
    if start != b"REDIS":
        return True
    found = _AFTER_RDB.search(file.read(_LARGEST_RDB))
    if found is not None:
        file.seek(found.end())
    return found is not None


def _resp(file: IO[bytes], name: str) -> Iterator[list[bytes] | int]:
    """Yield commands as words, and the Unix seconds of annotations."""
    number = 0
    while line := file.readline():
        number += 1
        if line.startswith(b"#TS:"):
            yield int(line[4:])
            continue
        if line.startswith(b"#"):
            continue
        if not line.startswith(b"*") or not line[1:].strip().isdigit():
            if not line.endswith(b"\n"):
                return
            step = "name an append-only file, or the folder of its manifest"
            raise BadTrace(
                name, number, "", line[:60], "is no command of an append-only file", step
            )
        words = []
        for _ in range(int(line[1:])):
            head = file.readline()
            if not head.endswith(b"\n"):
                return
            size = int(head[1:])
            word = file.read(size + 2)
            if len(word) < size + 2:
                return
            words.append(word[:size])
        if words:
            yield words
