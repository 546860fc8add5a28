"""How programs guard shared state with what is published: each in our own words, faults included.

`once(think)` reads a counter, lets an agent think about it, and writes what it thought.  What it
loses is measured by `contention`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import sqlalchemy
from sqlalchemy.orm import Mapped, Session, declarative_base, mapped_column

Think = Callable[[Any], Any]
Once = Callable[[Think], object]


class Refused(Exception):
    """A snippet has given up."""


class VersionedState:
    """A dict in Redis whose `_version` is compared after one GET, before a SET."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def get(self, key: str) -> Any:
        """Return the state."""
        return json.loads(self.client.get(key) or '{"n": 0, "_version": 0}')

    def set(self, key: str, state: Any, expected: int) -> bool:
        """Write it if the version is the expected one, which may change in between."""
        if self.get(key).get("_version", 0) != expected:
            return False
        self.client.set(key, json.dumps({**state, "_version": expected + 1}))
        return True

    def once(self, key: str) -> Once:
        """Compare, then set; between the two others do the same."""

        def run(think: Think) -> None:
            state = self.get(key)
            if not self.set(key, think(state), state.get("_version", 0)):
                raise Refused("somebody else was faster")

        return run


def watch_after_get(client: Any, key: str) -> Once:
    """GET, think, then WATCH: what was written in between is not noticed."""

    def run(think: Think) -> None:
        state = think(json.loads(client.get(key) or "{}"))
        with client.pipeline() as pipe:
            pipe.watch(key)
            pipe.multi()
            pipe.set(key, json.dumps(state))
            pipe.execute()

    return run


def retry_with_stale_data(client: Any, key: str) -> Once:
    """WATCH and think; after a conflict the same thought is written again."""

    def run(think: Think) -> None:
        state = None
        for _ in range(20):
            with client.pipeline() as pipe:
                pipe.watch(key)
                if state is None:
                    state = think(json.loads(pipe.get(key)))
                pipe.multi()
                pipe.set(key, json.dumps(state))
                try:
                    pipe.execute()
                    return
                except redis.WatchError:
                    continue
        raise Refused("beaten 20 times")

    return run


def right_watch_loop(client: Any, key: str, attempts: int = 3) -> Once:
    """WATCH, GET, think, MULTI; after a conflict all of it again, a few times."""

    def run(think: Think) -> None:
        for _ in range(attempts):
            with client.pipeline() as pipe:
                pipe.watch(key)
                there: Any = pipe.get(key)
                state = think(json.loads(there))
                pipe.multi()
                pipe.set(key, json.dumps(state))
                try:
                    pipe.execute()
                    return
                except redis.WatchError:
                    continue
        raise Refused(f"beaten {attempts} times")

    return run


def select_then_update(engine: sqlalchemy.Engine) -> Once:
    """SELECT a row, think, UPDATE it."""

    def run(think: Think) -> None:
        with engine.begin() as connection:
            text = sqlalchemy.text("SELECT n FROM counters WHERE id = 1")
            n = connection.execute(text).scalar_one()
        value = think({"n": n})
        with engine.begin() as connection:
            text = sqlalchemy.text("UPDATE counters SET n = :n WHERE id = 1")
            connection.execute(text, {"n": value["n"]})

    return run


Base: Any = declarative_base()


class Counter(Base):  # type: ignore[misc]  # it is Any
    """A row with a version column, as an object."""

    __tablename__ = "counters"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # as SQLAlchemy's manual has it


def version_column(engine: sqlalchemy.Engine) -> Once:
    """An object with a version column: of those who read one version, one is written."""

    def run(think: Think) -> None:
        with Session(engine) as session:
            counter = session.get_one(Counter, 1)
            counter.n = think({"n": counter.n})["n"]
            session.commit()

    return run


def find_then_replace(collection: Any) -> Once:
    """Find a document, think, replace it."""

    def run(think: Think) -> None:
        found = collection.find_one({"_id": 1})
        collection.replace_one({"_id": 1}, think(found))

    return run


def read_then_write(path: Path) -> Once:
    """Read a file, think, write it."""

    def run(think: Think) -> None:
        value = think(json.loads(path.read_text()))
        new = path.with_name(uuid.uuid4().hex)
        new.write_text(json.dumps(value))
        os.replace(new, path)

    return run
