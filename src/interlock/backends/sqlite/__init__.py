"""The SQLite backend: the small one, and the default."""

from interlock.backends.sqlite.backend import SQLiteBackend
from interlock.backends.sqlite.connect import SQLiteOptions

__all__ = ["SQLiteBackend", "SQLiteOptions"]
