"""A payment whose process is killed after the bank was asked and before its answer was recorded.

    python examples/payment_reconciliation.py [sqlite:///payment.db]

A run charges a card.  Its process is killed with SIGKILL, once before the bank has taken the money
and once after.  The process that goes on finds the effect in doubt, asks the bank whether it
happened, and charges exactly once in both cases.  The bank is a small HTTP server with a ledger, in
this process; the ones that are killed are its children.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import interlock


class Bank(BaseHTTPRequestHandler):
    """A bank that keeps a ledger of (idempotency key, amount), and does not look for doubles."""

    ledger: ClassVar[list[tuple[str, int]]] = []

    def do_POST(self) -> None:
        """Take money: `{"key": ..., "amount": ...}`."""
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.ledger.append((order["key"], order["amount"]))
        self._answer({"charged": order["amount"]})

    def do_GET(self) -> None:
        """Say what was charged under the key in the path, null where nothing was."""
        key = urllib.parse.unquote(self.path.strip("/"))
        charged = [amount for known, amount in self.ledger if known == key]
        self._answer({"charged": charged[0]} if charged else None)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def pay(run: interlock.Run, bank: str, dies: str) -> str:
    """The program.  `dies`: where the process is killed, as if the power went out."""

    def charge(key: str, amount: int) -> Any:
        if dies == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        order = json.dumps({"key": key, "amount": amount}).encode()
        with urllib.request.urlopen(bank, order) as answer:
            charged = json.load(answer)
        if dies == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return charged

    def look_up(key: str, amount: int) -> Any:
        with urllib.request.urlopen(f"{bank}/{key}") as answer:
            return json.load(answer)

    amount: int = run.step("amount", lambda: run.input["amount"])
    charged = run.effect("charge", charge, amount, check=look_up)

    def confirm() -> None:
        run.tx.create(f"payments/{run.id}", {"status": "COMPLETED", **charged})

    run.step("confirm", confirm)
    return "paid"


def work(url: str, space: str, run_id: str, bank: str, dies: str) -> None:
    """What a child process does: take the run up, or go on with it."""
    with (
        interlock.open(url, space=space, agent=f"payer:{os.getpid()}") as opened,
        opened.run(run_id, input={"amount": 42}, ttl=1) as run,
    ):
        run.result = pay(run, bank, dies)


def main(url: str) -> dict[str, Any]:
    """Pay twice, killed at two moments; return the bank's ledger and what the space holds."""
    name = uuid.uuid4().hex  # a space of its own for each time that the example runs
    Bank.ledger = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bank)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bank = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with interlock.open(url, space=name, agent="us") as space:
            for run_id, dies in (("order-1", "before"), ("order-2", "after")):
                ended = child(url, name, run_id, bank, dies)
                (doubt,) = space.runs.show(run_id).in_doubt
                print(f"{run_id}: killed ({ended}) {dies} the bank took it; {doubt} is in doubt")
                child(url, name, run_id, bank, "never")
                print(f"{run_id}: {space.runs.show(run_id).state}")
            print(f"the bank's ledger: {[amount for _, amount in Bank.ledger]}")
            return {
                "ledger": list(Bank.ledger),
                "states": [info.state for info in space.runs.list()],
                "payments": [record.value for record in space.scan("payments/").values()],
            }
    finally:
        server.shutdown()
        server.server_close()


def child(*arguments: str) -> int:
    """Run `work(*arguments)` in a process of its own; return its exit code, -9 where killed."""
    return subprocess.run([sys.executable, __file__, "--work", *arguments], check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        main(*sys.argv[1:] or ["sqlite:///payment.db"])
