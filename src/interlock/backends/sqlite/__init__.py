"""The SQLite backend: the small one, and the default."""

from interlock.backends.sqlite.backend import SQLiteBackend

__all__ = ["SQLiteBackend"]
