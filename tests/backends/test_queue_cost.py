"""What a question about a place in a queue costs the store, however many wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import redis

import interlock
from interlock.core.requests import Load, TakeTurn

FEW, MANY = 80, 420


def test_a_question_costs_sqlite_the_same_however_many_wait(tmp_path: Path) -> None:
    def cost(space: Any, ask: Callable[[], Any]) -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connections = [*space.session.driver.backend._pool._idle]
        for connection in connections:
            connection.set_progress_handler(count, 1)
        ask()
        for connection in connections:
            connection.set_progress_handler(None, 1)
        return steps

    _check(f"sqlite:///{tmp_path / 'store.db'}", cost)


def test_a_question_costs_redis_the_same_however_many_wait(redis_url: str) -> None:
    client: Any = redis.Redis.from_url(redis_url, decode_responses=True)

    def calls() -> int:
        stats = client.info("commandstats")
        names = ("hget", "hmget", "zrangebylex", "zlexcount", "zadd", "zrem", "hset", "hdel")
        return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in names)

    def cost(space: Any, ask: Callable[[], Any]) -> int:
        before = calls()
        ask()
        return calls() - before

    _check(redis_url, cost)


def _check(url: str, cost: Callable[[Any, Callable[[], Any]], int]) -> None:
    """Compare what asking costs with few and with many in the queue."""
    with interlock.open(url, space=f"cost-{id(cost)}", agent="a") as space:
        perform = space.session.driver.backend.perform
        places = [perform(TakeTurn(("k",), name=f"{n}", agent="a", ttl=600.0)) for n in range(FEW)]
        second = TakeTurn(("k",), name="", agent="a", ttl=600.0, ticket=places[1].ticket)

        def all_costs() -> list[int]:
            asks = (lambda: perform(second), lambda: perform(Load(("k",))))
            return [cost(space, ask) for ask in asks]

        all_costs()
        few = all_costs()
        for n in range(FEW, MANY):
            perform(TakeTurn(("k",), name=f"{n}", agent="a", ttl=600.0))
        many = all_costs()
        assert all(few)
        assert [round(m / f, 1) for f, m in zip(few, many, strict=True)] == [1.0, 1.0]


def test_a_question_costs_postgresql_the_same_however_many_wait(
    postgres_url: str,
) -> None:
    with (
        psycopg.connect(postgres_url) as db,
        interlock.open(postgres_url, space="cost", agent="a") as space,
    ):
        perform = space.session.driver.backend.perform
        found: Any = db.execute("SELECT space FROM interlock.spaces WHERE name = 'cost'").fetchone()
        number = found[0]

        def cost(ticket: int) -> int:
            with db.transaction(force_rollback=True):
                db.execute(
                    "SELECT * FROM interlock.take_turn(%s, '{k}', '', 'a', 600000000, %s, false,"
                    " '{}')",
                    (number, ticket),
                )
                rows: Any = db.execute(
                    "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_all_tables"
                    " WHERE schemaname = 'interlock'"
                ).fetchone()
                return int(rows[0])

        places = [perform(TakeTurn(("k",), name=f"{n}", agent="a", ttl=600.0)) for n in range(FEW)]
        few = cost(places[1].ticket)
        for n in range(FEW, MANY):
            perform(TakeTurn(("k",), name=f"{n}", agent="a", ttl=600.0))
        assert 0 < cost(places[1].ticket) <= 2 * few
