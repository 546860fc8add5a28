"""Clients of the test servers that do one thing, once."""

from __future__ import annotations

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def once(url: str) -> redis.Redis:
    """Return a Redis client that sends each request once."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run one PostgreSQL statement; return its rows."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []
