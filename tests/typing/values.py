"""Typed values as mypy and pyright see them.

Never run.  Each line that is wrong says which error it must be: one that is not found fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict, assert_type

import interlock


@dataclass(frozen=True)
class Booking:
    seat: str
    row: int = 1


class Plan(TypedDict):
    title: str


def count(value: int) -> int:
    return value + 1


def count_or_begin(value: int | None) -> int:
    return 1 if value is None else value + 1


def shown(value: int) -> str:
    return str(value)


async def shown_later(value: int) -> str:
    return str(value)


async def count_later(value: int) -> int:
    return value + 1


def choose(row: int) -> Booking:
    return Booking("A", row)


def check_reading(space: interlock.Space) -> None:
    assert_type(space.read("b", Booking), interlock.Record[Booking])
    assert_type(space.read("b", Booking).value.row, int)
    assert_type(space.read("b", Booking | None).value, Booking | None)
    assert_type(space.read("b", list[Booking]).value, list[Booking])
    assert_type(space.read("p", Plan).value["title"], str)
    assert_type(space.read_many(["b"], Booking), dict[str, interlock.Record[Booking]])
    assert_type(space.scan("b/", Booking)["b/1"].value, Booking)
    assert_type(space.at(position=1).read("b", Booking).value, Booking)
    assert_type(space.history("b", Booking), Iterator[interlock.Entry[Booking]])
    assert_type(next(space.log(type=Booking)).value, Booking)
    assert_type(next(space.watch("b/", type=Booking)).value, Booking)
    _ = space.read("b").value.whatever  # without a type it may be anything
    record: interlock.Record[Booking] = space.read("b")
    _ = space.read("b", Booking).value.column  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    number: interlock.Record[int] = space.read("b", Booking)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    space.read("b", 3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    del record, number


def check_updating(space: interlock.Space) -> None:
    assert_type(space.update("n", count, int), interlock.Record[int])
    assert_type(space.update("n", lambda n: n + 1, int, default=0).value, int)
    assert_type(space.update("n", count_or_begin, int, default=None).value, int)
    space.update("b", lambda booking: replace(booking, row=2), Booking)
    space.update("b", lambda booking: interlock.DELETE, Booking)
    space.update("n", shown)  # without a type it may be anything
    space.update("n", shown, int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    space.update("n", count, int, default="0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    space.update("n", count, int, default=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    space.update("n", count, Booking)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    space.update("n", count_later, int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_transactions(space: interlock.Space) -> None:
    with space.transaction() as tx:
        assert_type(tx.read("b", Booking).value, Booking)
        assert_type(tx.scan("b/", Booking)["b/1"].value, Booking)
        tx.update("n", count, int)
        tx.update("n", shown, int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with space.lease("b") as lease:
        assert_type(lease.read(Booking).value, Booking)
        assert_type(lease.update(lambda b: replace(b, row=2), Booking).value, Booking)
        lease.update(count, Booking)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def book(tx: interlock.Tx) -> Booking:
    return tx.read("b", Booking).value


async def book_later(tx: interlock.AsyncTx) -> Booking:
    return (await tx.read("b", Booking)).value


def check_transact(space: interlock.Space) -> None:
    assert_type(space.transact(book), Booking)
    assert_type(space.transact(lambda tx: tx.read("n", int).value), int)
    assert_type(space.transact(book, op_id="once"), Booking | None)
    count(space.transact(book))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    count(space.transact(book, op_id="once").row)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    count(space.transact(book_later))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    space.transact(count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_groups(space: interlock.Space) -> None:
    group = space.group("g", type=Booking)
    assert_type(group, interlock.Group[Booking])
    assert_type(group.take(), list[interlock.Delivery[Booking]])
    for delivery in group:
        assert_type(delivery.entry.value.row, int)
        group.ack(delivery)
    _ = next(iter(space.group("g"))).entry.value.whatever  # without a type it may be anything
    count(group.take()[0].entry.value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    space.group("g", type=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Paid:
    order: int


@dataclass(frozen=True)
class Sent:
    to: str


def count_paid(total: int, event: Paid) -> int:
    return total + event.order


def count_all(total: int, event: Paid | Sent) -> int:
    return total + 1


def check_events(space: interlock.Space) -> None:
    events = space.events("orders", Paid, Sent)
    assert_type(events, interlock.Events[Paid | Sent])
    assert_type(space.events("orders", Paid | Sent), interlock.Events[Paid | Sent])
    assert_type(space.events("orders", Paid), interlock.Events[Paid])
    assert_type(next(events.read()).event, Paid | Sent)
    assert_type(next(events.read(types=Sent)).event.to, str)
    assert_type(next(events.read(types=(Paid, Sent))).event, Paid | Sent)
    assert_type(next(events.watch(types=Paid)).event.order, int)
    assert_type(events.append(Paid(1)).event, Paid | Sent)
    assert_type(events.project(count_all, 0).refresh(), int)
    events.append_many([Paid(1), Sent("home")])
    events.append(Booking("A"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    events.append_many([Paid(1), 3])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    events.project(count_paid, 0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    events.project(count_all, "0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    _ = next(events.read()).event.to  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
    space.events("orders", 3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def check_runs(space: interlock.Space) -> None:
    with space.run("r") as run:
        assert_type(run.step("choose", choose, Booking, 12), Booking)
        assert_type(run.effect("choose", choose, Booking, 12), Booking)
        _ = run.step("choose", choose, 12).whatever  # without a type it may be anything
        run.step("choose", choose, "12", None)
        assert_type(run.input_as(Booking), Booking)
        assert_type(run.wait_for("answer", type=Booking | None), Booking | None)
        assert_type(run.wait_for("answer", 3.0, type=Booking).row, int)
        _ = run.wait_for("answer").whatever  # without a type it may be anything
        count(run.input_as(Booking))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        count(run.wait_for("answer", type=str))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        count(run.step("choose", choose, Booking, 12))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def check_async(space: interlock.AsyncSpace) -> None:
    assert_type(await space.read("b", Booking), interlock.Record[Booking])
    assert_type(await space.update("n", count, int), interlock.Record[int])
    assert_type(await space.update("n", count_later, int), interlock.Record[int])
    await space.update("n", shown_later, int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async for entry in space.watch("b/", type=Booking):
        assert_type(entry.value, Booking)
    async with space.transaction() as tx:
        assert_type(await tx.read("b", Booking), interlock.Record[Booking])
        await tx.update("n", count_later, int)
    events = space.events("orders", Paid, Sent)
    assert_type(await events.append(Paid(1)), interlock.EventEntry[Paid | Sent])
    async for happened in events.watch(types=Sent):
        assert_type(happened.event, Sent)
    async with space.run("r") as run:
        assert_type(await run.step("choose", choose, Booking, 12), Booking)
        assert_type(await run.wait_for("answer", type=Booking), Booking)
    assert_type(await space.transact(book_later), Booking)
    assert_type(await space.transact(book_later, op_id="once"), Booking | None)
    async for delivery in space.group("g", type=Booking):
        assert_type(delivery.entry.value, Booking)
