"""The LangGraph store beside LangGraph's own, on SQLite and on PostgreSQL: put, get, search."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore

import interlock
from benchmarks.cases import Row, alternating, spread
from benchmarks.servers import server, space_name
from interlock.adapters.langgraph import Store
from tests.servers.postgres import Postgres

ITEMS, DIMS = 1000, 256
TEAM = ("team", "notes")
_FEW = 20  # calls in one round
_numbers = itertools.count()


def langgraph_store(folder: Path, scale: int) -> list[Row]:
    """Interleaved rounds on the same machine and server, of 1,000 items with vectors."""
    rows = []
    for name, ours, theirs in _pairs(folder):
        over = Store(ours.space, unread="overwrite")
        for n in range(ITEMS):
            for store in (ours, theirs):
                store.put(TEAM, str(n), _value(n))
        for what, target, call in _CASES:
            if call is _by_meaning and name == "SQLite":
                continue
            ratios = alternating(
                partial(call, over if call is _over else ours),
                partial(call, theirs),
                max(scale // 4, 5) + 1,
            )
            figure = spread([1 / each for each in ratios[1:]])
            how = f"time beside LangGraph's own store, {ITEMS:,} items; above 1: ours is slower"
            rows.append(Row(f"{name}: LangGraph store, {what}", figure, target, how))
    return rows


def _pairs(folder: Path) -> Iterator[tuple[str, Store, BaseStore]]:
    index: Any = {"dims": DIMS, "embed": _embed, "fields": ["text"]}
    # Its vectors need an extension, which many builds of Python cannot load.
    sqlite: Any = import_module("langgraph.store.sqlite").SqliteStore
    with sqlite.from_conn_string(str(folder / "theirs.db")) as theirs:
        theirs.setup()
        # As long as an acknowledged write is to survive: the same for both.
        theirs.conn.execute("PRAGMA synchronous=FULL")
        with interlock.open(f"sqlite:///{folder / 'ours.db'}", agent="bench") as space:
            yield "SQLite", Store(space), theirs
    postgres: Any = import_module("langgraph.store.postgres").PostgresStore
    with (
        server(Postgres, "postgres", folder) as url,
        postgres.from_conn_string(url, index=index) as theirs,
        interlock.open(url, space=space_name(), agent="bench") as space,
    ):
        theirs.setup()
        yield "PostgreSQL", Store(space, index=index), theirs


def _embed(texts: Any) -> list[list[float]]:
    return [_vector(text) for text in texts]


def _vector(text: str) -> list[float]:
    chance = random.Random(text)
    return [chance.uniform(-1, 1) for _ in range(DIMS)]


def _value(n: int) -> dict[str, Any]:
    return {"text": f"note {n}", "n": n, "in": {"part": n % 10}, "tags": ["a", "b"]}


def _put(store: BaseStore) -> None:
    for n in range(_FEW):
        store.put(("new", "notes"), f"{next(_numbers)}", _value(n), index=False)


def _over(store: BaseStore) -> None:
    for n in range(_FEW):
        store.put(TEAM, str(n), _value(n), index=False)


def _edit(store: BaseStore) -> None:
    for n in range(_FEW):
        item = store.get(TEAM, str(n))
        assert item is not None
        item.value["n"] += 1
        store.put(TEAM, str(n), item.value, index=False)


def _get(store: BaseStore) -> None:
    for n in range(_FEW):
        assert store.get(TEAM, str(n)) is not None


def _search(store: BaseStore) -> None:
    for _ in range(_FEW):
        assert len(store.search(TEAM)) == 10


def _filtered(store: BaseStore) -> None:
    for n in range(_FEW):
        assert store.search(TEAM, filter={"n": {"$gte": ITEMS - 1 - n}})


def _after_a_put(store: BaseStore) -> None:
    for n in range(_FEW):
        store.put(TEAM, f"new {next(_numbers)}", _value(n), index=False)
        assert len(store.search(TEAM)) == 10


def _by_meaning(store: BaseStore) -> None:
    for n in range(_FEW):
        assert store.search(TEAM, query=f"note {n}")


Case = tuple[str, str, Callable[[BaseStore], None]]
_CASES: tuple[Case, ...] = (
    ("put of a new item", "at most 1.5x", _put),
    ("put over an item", "at most 1.5x", _over),
    ("get", "at most 1.5x", _get),
    ("get and put back", "at most 1.5x", _edit),
    ("search", "at most 2x", _search),
    ("search with a filter", "at most 2x", _filtered),
    ("put, then search", "at most 2x", _after_a_put),
    ("search by meaning", "at most 2x", _by_meaning),
)

CASES = (langgraph_store,)
