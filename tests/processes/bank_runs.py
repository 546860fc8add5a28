"""A durable run of 20 steps, 10 of them effects, and the processes that are to be killed in it."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import interlock
import interlock._sync.run  # where many are started from one parent, it is loaded there
from tests.processes.bank import ask
from tests.processes.writers import Place

EFFECTS = 10
TTL = 1.0  # seconds; a lease that is granted to a process just killed lasts no longer


def work(place: Place, run_id: str, port: int, sign: Connection) -> None:
    """What a process does: take the run up, and go on with it to its end, with signs of life."""
    sign.send("begun")
    space = interlock.open(place.url, space=place.space, agent="worker")
    with space, space.run(run_id, ttl=TTL) as run:
        sign.send("in the run")
        run.result = pays_and_books(run, port)


def pays_and_books(run: interlock.Run, port: int) -> Any:
    """The program: every other payment can be looked up, the others have a key that is honoured."""
    receipts = []
    for number in range(EFFECTS):
        amount = 10 + number
        if number % 2:
            receipt = run.effect("charge", charge, port, amount, in_doubt="retry")
        else:
            pay, look = payments(run)
            receipt = run.effect("pay", pay, port, amount, check=look)
        receipts.append(run.step("book", booking(run), number, receipt["amount"]))
    return receipts


def charge(key: str, port: int, amount: int) -> Any:
    """Charge: the bank takes each key once."""
    return ask(port, "charge", key, amount)


def payments(run: interlock.Run) -> Any:
    """Return how one pays, and asks whether one has, at the epoch of the run."""

    def pay(key: str, port: int, amount: int) -> Any:
        return ask(port, "pay", key, amount, run.epoch)

    def look(key: str, port: int, amount: int) -> Any:
        return ask(port, "asked", key, amount, run.epoch)

    return pay, look


def booking(run: interlock.Run) -> Any:
    """Return what writes a receipt to the space, in one commit with its step."""

    def book(number: int, amount: int) -> list[int]:
        balance = run.tx.read(f"{run.id}/balance")
        run.tx.write(balance, (balance.value or 0) + amount)
        run.tx.create(f"{run.id}/receipt/{number}", amount)
        return [number, (balance.value or 0) + amount]

    return book
