"""The PostgreSQL dialect."""

from interlock.backends.postgres.backend import PostgresBackend

__all__ = ["PostgresBackend"]
