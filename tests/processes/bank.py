"""A bank in a process of its own, with a ledger of its own: what effects of runs are tested on.

`charge` takes each idempotency key once.  `pay` knows no keys, and books whatever it is told; but
it can be asked whether it has booked a key, and takes no word of an older epoch from then on, so
that a call that was on its way when its sender died cannot come after the answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class Ledger:
    """What the bank has booked, and what it was asked."""

    def __init__(self) -> None:
        self.booked: list[tuple[str, int]] = []
        self.counts = {"charges repeated": 0, "asked: yes": 0, "asked: no": 0, "too late": 0}
        self._asked_at: dict[str, int] = {}
        self._lock = threading.Lock()

    def answer(self, what: str, key: str, amount: int, epoch: int) -> Any:
        """Carry one request out."""
        with self._lock:
            known = [amount for booked, amount in self.booked if booked == key]
            if what == "ledger":
                return {"booked": self.booked, "counts": self.counts}
            if what == "asked":
                self._asked_at[key] = max(epoch, self._asked_at.get(key, 0))
                self.counts["asked: yes" if known else "asked: no"] += 1
                return {"amount": known[0]} if known else None
            if what == "pay" and epoch < self._asked_at.get(key, 0):
                self.counts["too late"] += 1
                return {"refused": "somebody else has asked since"}
            if what == "charge" and known:
                self.counts["charges repeated"] += 1
                return {"amount": known[0]}
            self.booked.append((key, amount))
            return {"amount": amount}


class Teller(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    ledger = Ledger()

    def do_POST(self) -> None:
        """Carry a request out, with a moment on the way to the ledger and on the way back."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        threading.Event().wait(0.002)
        body = json.dumps(self.ledger.answer(**asked)).encode()
        threading.Event().wait(0.002)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # whoever asked is dead

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def ask(port: int, what: str, key: str = "", amount: int = 0, epoch: int = 0) -> Any:
    """Ask the bank on a port of this host."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    asked = {"what": what, "key": key, "amount": amount, "epoch": epoch}
    try:
        connection.request("POST", "/", json.dumps(asked))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Bank:
    """The bank's process, in a `with` block."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Serve until whoever started it has gone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teller)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
