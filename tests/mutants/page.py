"""Writes."""
from __future__ import annotations
from typing import Any
def write(table: Any, root: Any) -> None: ...
