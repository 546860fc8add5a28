"""The Lua scripts of the dialect, each with what it shares with others before it."""

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
    shared = ("common", "groups") if name in _OF_GROUPS else ("common",)
    parts = [folder.joinpath(f"{part}.lua").read_text("utf-8") for part in (*shared, name)]
    text = "\n".join(parts)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_OF_GROUPS = ("read_group", "ack_group", "group_state", "drop_group")
_NAMES = (
    *(
        "commit",
        "load",
        "list_keys",
        "load_at",
        "log",
        "turn",
        "leave",
        "enter",
        "open",
        "lease",
        "mark",
    ),
    *(
        "drop_lease",
        "fold",
        "trim",
        "redact",
        "scrub",
        "save_projection",
        "load_projection",
        "drop_projection",
    ),
    *_OF_GROUPS,
    *("ask", "drop_space", "rename_space", "import", "import_mark", "restore", "finish_import"),
    *("dump", "read_base", "examine"),
)
SCRIPTS = {name: _load(name) for name in _NAMES}
BY_SHA = {script.sha: script.text for script in SCRIPTS.values()}
