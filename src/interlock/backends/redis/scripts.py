"""The Lua scripts of the dialect, each with what is common to all before it."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    """A script and the name that the server knows it by."""

    name: str
    text: str
    sha: str


def _load(name: str) -> Script:
    folder = resources.files(__package__)
    parts = [folder.joinpath(f"{part}.lua").read_text("utf-8") for part in ("common", name)]
    text = "\n".join(parts)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NAMES = (
    *("commit", "load", "load_at", "log", "turn", "leave", "enter", "open", "lease"),
    *("drop_lease", "fold"),
)
SCRIPTS = {name: _load(name) for name in _NAMES}
BY_SHA = {script.sha: script.text for script in SCRIPTS.values()}
