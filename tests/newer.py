"""What a newer version of Interlock would store."""

from __future__ import annotations

import json
from typing import Any

import interlock
from interlock.core.plan import PUT, Write, expect
from interlock.core.records import Committed
from interlock.core.requests import Commit, Load, Steps
from interlock.core.rules import RULES_KEY

BOOKING = {**interlock.BOOKING.to_json(), "timeouts": {"PENDING": 60}}
RULES: dict[str, Any] = {
    "account/*": {"rule": "escrow", "by": ["bank"]},
    "sum/*": {"rule": "merged", "reducer": "counter", "last": 100},
    "booking/*": {"rule": "guarded", "machine": BOOKING},
    "plan/*": {"rule": "guarded", "on_conflict": "vote"},
}


def store_rules(space: interlock.Space, rules: dict[str, Any]) -> None:
    """Store rules as they are, whether this version knows them or not."""
    writer = space.session.writer

    def steps() -> Steps[Any]:
        snapshot = yield from Load((RULES_KEY,))
        record = snapshot.records[RULES_KEY]
        writer.book.load(record.version, record.value)
        write = Write(PUT, RULES_KEY, json.dumps(rules))
        plan = writer.plan(space.session.op_id(), expects=(expect(record),), writes=(write,))
        return (yield from Commit(plan))

    assert isinstance(space.session.run(steps()), Committed)
