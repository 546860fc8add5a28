"""A refund that a person approves: the run waits for hours or days, and no process waits with it.

    python examples/approval.py [sqlite:///approval.db]

Between the question and the answer every worker may end, and the machine may be switched off.  The
answer may come from anywhere: another process, or `interlock runs send refund-17 approval true`.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

import interlock


def refund(run: interlock.Run) -> str:
    """Pay money back, above 100 only if somebody agrees within a day."""
    amount: int = run.input["amount"]
    if amount > 100:
        try:
            answer = run.wait_for("approval", timeout=24 * 3600)
        except interlock.TimedOut:
            raise interlock.RunFailed("nobody answered within a day") from None
        if not answer["approved"]:
            raise interlock.RunFailed(f"{answer['by']} said no")

    def book() -> None:
        run.tx.create(f"refunds/{run.id}", amount)

    run.step("book", book)
    return f"{amount} paid back"


def main(url: str) -> dict[str, Any]:
    """Have two refunds worked on, answer in between; return how each ended."""
    name = uuid.uuid4().hex  # a space of its own for each time that the example runs
    with interlock.open(url, space=name, agent="clerk") as space:
        for run_id, amount in (("refund-16", 20), ("refund-17", 900), ("refund-18", 500)):
            space.runs.start(run_id, "refund", {"amount": amount})
        space.worker({"refund": refund}).work(once=True)
        for info in space.runs.list(open=True):
            print(f"{info.id} is {info.state}, waits for {', '.join(info.waits)}")
    # Here nobody works on anything.  Somebody answers, later another worker comes.
    with interlock.open(url, space=name, agent="boss") as space:
        space.runs.send("refund-17", "approval", {"approved": True, "by": "boss"})
        space.runs.send("refund-18", "approval", {"approved": False, "by": "boss"})
        try:
            space.runs.send("refund-18", "approval", {"approved": True, "by": "clerk"})
        except interlock.Conflict:
            print("refund-18 has its answer: a second one is refused")
    with interlock.open(url, space=name, agent="night-shift") as space:
        space.worker({"refund": refund}).work(once=True)
        for info in space.runs.list():
            print(f"{info.id} is {info.state}: {info.result or info.error}")
        return {
            "runs": {info.id: info.result or info.error for info in space.runs.list()},
            "paid": {key: record.value for key, record in space.scan("refunds/").items()},
        }


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///approval.db"])
