"""The cases of durable runs: steps beside DBOS and beside plain INSERTs, on the same PostgreSQL."""

from __future__ import annotations

import importlib
import json
import statistics
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

import interlock
from benchmarks.cases import VALUE, Row, seconds
from benchmarks.servers import server, space_name
from tests.servers.postgres import Postgres

STEPS = 20  # of one run


def _answer(number: int) -> dict[str, Any]:
    return {**VALUE, "number": number}


def _ours(url: str, runs: int) -> Callable[[], None]:
    space = interlock.open(url, space=space_name(), agent="bench")

    def work() -> None:
        for _ in range(runs):
            with space.run(uuid.uuid4().hex) as run:
                for number in range(STEPS):
                    run.step("answer", _answer, number)

    return work


def _dbos(url: str, runs: int) -> tuple[Callable[[], None], Callable[[], None]] | None:
    """The same program for DBOS, and what ends it; None where DBOS is not installed."""
    try:
        dbos: Any = importlib.import_module("dbos")
    except ImportError:
        return None
    step = dbos.DBOS.step()(_answer)

    @dbos.DBOS.workflow()  # type: ignore[untyped-decorator]  # DBOS is imported by name
    def program() -> None:
        for number in range(STEPS):
            step(number)

    dbos.DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
    dbos.DBOS.launch()

    def work() -> None:
        for _ in range(runs):
            program()

    return work, lambda: dbos.DBOS.destroy()


def _inserts(db: Any, runs: int) -> Callable[[], None]:
    db.execute("CREATE TABLE steps (run text, step int, result text, PRIMARY KEY (run, step))")

    def work() -> None:
        for _ in range(runs):
            run = uuid.uuid4().hex
            for number in range(STEPS):
                body = json.dumps(_answer(number))
                db.execute("INSERT INTO steps VALUES (%s, %s, %s)", (run, number, body))

    return work


def steps(folder: Path, scale: int) -> list[Row]:
    """Runs of 20 steps, one after the other: ours, DBOS, and an INSERT for each step."""
    runs = max(scale // 5, 1)
    with server(Postgres, "postgres", folder) as url:
        ours = _ours(url, runs)
        dbos = _dbos(url, runs)
        with psycopg.connect(url, autocommit=True) as db:
            programs = {"ours": ours, "inserts": _inserts(db, runs)}
            if dbos is not None:
                programs["dbos"] = dbos[0]
            took: dict[str, list[float]] = {name: [] for name in programs}
            for name, work in [*programs.items()] * 9:
                took[name].append(seconds(work))
        if dbos is not None:
            dbos[1]()
    rates = {name: runs * STEPS / statistics.median(times[2:]) for name, times in took.items()}
    what = f"PostgreSQL: steps of durable runs ({STEPS} a run)"
    figure, how = f"{rates['ours']:,.0f}/s", "beside DBOS: not installed (pip install dbos)"
    if "dbos" in rates:
        figure += f"; {rates['ours'] / rates['dbos']:.2f}x"
        how = f"beside DBOS ({rates['dbos']:,.0f}/s)"
    return [
        Row(what, figure, "above 1x", how),
        Row(
            what,
            f"{rates['ours'] / rates['inserts']:.2f}x",
            "",
            f"beside an INSERT for each step ({rates['inserts']:,.0f}/s)",
        ),
    ]


CASES: list[Callable[[Path, int], list[Row]]] = [steps]
