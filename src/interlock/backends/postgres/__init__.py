"""The PostgreSQL dialect."""

from interlock.backends.postgres.backend import PostgresBackend
from interlock.backends.postgres.connect import PostgresOptions

__all__ = ["PostgresBackend", "PostgresOptions"]
