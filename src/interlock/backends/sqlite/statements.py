"""Loads the statements of the dialect from `statements.sql`, where each has a name and a header."""

from __future__ import annotations

import pkgutil
import re

_HEADER = re.compile(r"^-- name: (\w+) \(.*\)$", re.MULTILINE)


def read(file: str) -> str:
    """Return the text of a file of this folder."""
    return (pkgutil.get_data(__package__, file) or b"").decode()


def load(file: str) -> dict[str, str]:
    """Return the statements of `file` by name, comments and final semicolons removed."""
    parts = _HEADER.split(read(file))[1:]
    return {name: _body(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _body(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.startswith("--"))
    return "\n".join(lines).strip().removesuffix(";")


SQL = load("statements.sql")
SCHEMA = read("schema.sql")
MIGRATIONS = {1: read("migrate_1_to_2.sql")}  # from this version to the next one
