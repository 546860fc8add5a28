"""Orders with types all the way: values, events, a class that has changed, a change of a part.

    python examples/typed.py [sqlite:///orders.db]

mypy and pyright check this file at their strictest, and there is no Any and no cast in it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from decimal import Decimal

import interlock


@dataclass(frozen=True)
class Order:
    customer: str
    cents: int
    status: str = "PENDING"
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Paid:
    order: str
    amount: Decimal


@dataclass(frozen=True)
class Shipped:
    order: str
    carrier: str = "post"


# Until last week a payment was a number of cents.
interlock.upcast(
    Paid, 1, lambda old: {"order": old["order"], "amount": f"{old['cents'] / 100:.2f}"}
)


def pay(order: Order) -> Order:
    """Decide from the order as it is; called again where somebody else was faster."""
    return order if order.status == "PAID" else replace(order, status="PAID")


def revenue(total: Decimal, event: Paid | Shipped) -> Decimal:
    """What was paid so far."""
    return total + event.amount if isinstance(event, Paid) else total


def main(url: str = "sqlite://") -> Decimal:
    """Sell something, and return what was earned so far."""
    rules = {"events/*": interlock.merged("append")}
    with interlock.open(url, space="shop", agent="clerk", rules=rules) as space:
        space.append("events/shop", {"$type": "Paid", "order": "order/0", "cents": 450}, id="old")
        if not space.read("order/1"):
            space.create("order/1", Order("Ann", 1999))
        order = space.update("order/1", pay, Order).value
        space.patch("order/1", {"notes": {"door": "ring twice"}})  # the other fields stay

        events = space.events("events/shop", Paid, Shipped)
        paid = events.append(Paid("order/1", Decimal(order.cents) / 100), id="order/1 paid")
        events.append(Shipped("order/1"), id="order/1 shipped")
        for each in events.read(after=paid.position, types=Shipped):
            note = space.read(each.event.order, Order).value.notes["door"]
            print(f"{each.at:%H:%M} {each.event.carrier} to {order.customer}: {note}")
        return events.project(revenue, Decimal(0)).refresh()


if __name__ == "__main__":
    print(main(*sys.argv[1:]), "earned")
