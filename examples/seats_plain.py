"""Agents sell the seats of a flight: SQLAlchemy models, and totals that are cached in Redis.

They read, think and write, so they sell seats twice, and count fewer than they sold.
`seats_guarded.py` differs in five lines, and does neither.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

ROWS, LETTERS = 4, "ABCD"
Row = Any  # an object of columns
Decide = Callable[[Row], Row]


class Base(DeclarativeBase):
    """The tables of the application."""


class Flight(Base):
    """A flight: who sits where, None where nobody does."""

    __tablename__ = "flights"
    id: Mapped[int] = mapped_column(primary_key=True)
    seats: Mapped[dict[str, Any]] = mapped_column(sqlalchemy.JSON)
    note: Mapped[str | None]


class Desk:
    """Sells seats."""

    def __init__(self, database: str, cache: str) -> None:
        self.engine = sqlalchemy.create_engine(database)
        self.cache = redis.Redis.from_url(cache)
        Base.metadata.create_all(self.engine)

    def open_flight(self, number: int) -> None:
        """Offer all seats of a flight."""
        seats = {f"{row}{letter}": None for row in range(1, ROWS + 1) for letter in LETTERS}
        with Session(self.engine) as session:
            session.add(Flight(id=number, seats=seats))
            session.commit()
        self.cache.set(f"totals:{number}", '{"sold": 0}')

    def read_flight(self, number: int) -> Row:
        """Read the row of a flight."""
        with Session(self.engine) as session:
            flight = session.get_one(Flight, number)
            return {"id": number, "seats": flight.seats, "note": flight.note}

    def write_flight(self, number: int, row: Row) -> Row:
        """Write the row of a flight."""
        with Session(self.engine) as session:
            session.merge(Flight(**row))
            session.commit()
        return row

    def change_flight(self, number: int, decide: Decide) -> Row:
        """Change a flight as somebody decides."""
        return self.write_flight(number, decide(self.read_flight(number)))

    def totals_of(self, number: int) -> Row:
        """Read what is cached of a flight."""
        return json.loads(self.cache.get(f"totals:{number}") or "{}")

    def change_totals(self, number: int, decide: Decide) -> None:
        """Change what is cached of a flight."""
        self.cache.set(f"totals:{number}", json.dumps(decide(self.totals_of(number))))

    def sell(self, number: int, passenger: str, think: Callable[[], object]) -> str:
        """Sell a seat; return which one."""

        def choose(row: Row) -> Row:
            free = next(seat for seat, whose in row["seats"].items() if whose is None)
            think()
            return {**row, "seats": {**row["seats"], free: passenger}}

        def count(totals: Row) -> Row:
            think()
            return {**totals, "sold": totals["sold"] + 1}

        row = self.change_flight(number, choose)
        self.change_totals(number, count)
        return next(str(seat) for seat, whose in row["seats"].items() if whose == passenger)


def main(database: str, cache: str, agents: int = 8) -> dict[str, int]:
    """Let agents sell at once; return how many sold a seat, and how many of those are nowhere."""
    desk = Desk(database, cache)
    desk.open_flight(17)
    all_read = threading.Barrier(agents)

    def agent(name: str) -> str:
        met: list[str] = []

        def think() -> None:
            if len(met) < 1:  # all agents think at the same time, once
                met.append(name)
                all_read.wait(60)

        return desk.sell(17, name, think)

    with ThreadPoolExecutor(agents) as pool:
        names = [f"passenger-{number}" for number in range(agents)]
        told = dict(zip(names, pool.map(agent, names), strict=True))
    seats, sold = desk.read_flight(17)["seats"], desk.totals_of(17)["sold"]
    desk.engine.dispose()
    desk.cache.close()
    lost = sum(seats[seat] != name for name, seat in told.items())
    return {"sold": agents, "without a seat": lost, "not counted": agents - sold}


if __name__ == "__main__":
    print(main("sqlite:///seats.db", "redis://localhost"))
