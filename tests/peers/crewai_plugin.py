"""Puts Interlock's persistence where CrewAI's own tests take `SQLiteFlowPersistence`.

For pytest: `-p crewai_plugin`, with this folder on PYTHONPATH, before the tests are imported.
`INTERLOCK_PEERS_URL` is the store (default: an SQLite file where the test wants its own); each path
of a database is a space of its own.  It imports nothing of this repository's tests: CrewAI's folder
is named `tests`, too.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true", CREWAI_DISABLE_TRACKING="true", OTEL_SDK_DISABLED="true"
)
# Else a store that an earlier run has left in the user's own folder.
os.environ.setdefault("CREWAI_STORAGE_DIR", tempfile.mkdtemp(prefix="interlock-peers-crewai-"))

import crewai.flow.persistence
import crewai.flow.persistence.sqlite
from crewai_core.paths import db_storage_path

import interlock
from interlock.adapters.crewai import Persistence

# Some tests start Python: there, `crewai_children/sitecustomize.py` does the same.
_SESSION = os.environ.setdefault("INTERLOCK_PEERS_SESSION", uuid.uuid4().hex)
_here = Path(__file__).parent
_paths = (str(_here / "crewai_children"), str(_here), os.environ.get("PYTHONPATH", ""))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _paths))

_opened: dict[str, interlock.Space] = {}


def _space(path: str) -> interlock.Space:
    """Return the space that stands for the database at a path."""
    if path not in _opened:
        url = os.environ.get("INTERLOCK_PEERS_URL") or f"sqlite:///{path}"
        name = hashlib.sha256(f"{_SESSION}{path}".encode()).hexdigest()
        _opened[path] = interlock.open(url, space=name, agent="crewai-tests")
    return _opened[path]


class SQLiteFlowPersistence(Persistence):
    """Interlock's persistence, made as CrewAI's own is."""

    persistence_type: str = "SQLiteFlowPersistence"
    db_path: str = ""

    def __init__(self, db_path: str | None = None, /, **fields: Any) -> None:
        path = db_path or fields.get("db_path") or str(Path(db_storage_path()) / "flow_states.db")
        made: dict[str, Any] = {**fields, "db_path": str(path)}
        super().__init__(_space(str(path)), unread="overwrite", **made)


for module in (crewai.flow.persistence, crewai.flow.persistence.sqlite):
    vars(module)["SQLiteFlowPersistence"] = SQLiteFlowPersistence
