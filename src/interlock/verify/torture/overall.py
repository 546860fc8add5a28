"""The checks that look at a whole run: real time, leases, readers of the log, the group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from interlock.verify.torture import plan
from interlock.verify.torture.findings import Findings
from interlock.verify.torture.logged import Log
from interlock.verify.torture.recording import ACKNOWLEDGED, Done

Span = tuple[int, float, float]  # position, invoked, completed


class Grant(NamedTuple):
    """A lease that was granted, or taken away: the epoch that it raised the key to, and when."""

    epoch: int
    invoked: float
    completed: float
    by: str


class Taken(NamedTuple):
    """Entries that a member of the group was given."""

    invoked: float
    positions: list[int]


class Acked(NamedTuple):
    """Entries that a member of the group acknowledged, all of which counted."""

    invoked: float
    completed: float
    positions: list[int]


class Overall:
    """Collects facts of the operations; `check` then looks at all of them."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.grants: dict[str, list[Grant]] = defaultdict(list)
        self.leased: list[tuple[str, int, float, str]] = []  # key, epoch, invoked, name of commit
        self.stretches: list[tuple[int, int, int, str]] = []
        self.totals: list[tuple[str, int, int, str]] = []
        self.taken: list[Taken] = []
        self.acked: list[Acked] = []

    def take(self, done: Done) -> None:
        """Note what only one kind of operation has."""
        facts, by = done.facts, f"{done.kind} of worker {done.worker}, number {done.number}"
        add = self.findings.add
        if "grant" in facts:
            key, epoch, invoked, completed = facts["grant"]
            self.grants[key].append(Grant(epoch, invoked, completed, by))
            for piece in done.pieces:
                if piece.commit:
                    self.leased.append((key, epoch, piece.invoked, piece.commit))
        if facts.get("same") is False:
            add("answered differently the second time", by)
        if "gap" in facts:
            add("reader of the log missed entries", f"{by}: {facts['gap']}")
        if "log" in facts:
            after, upto, total = facts["log"]
            self.stretches.append((after, upto, total, by))
        if "total" in facts:
            self.totals.append((*facts["total"], by))
            key, version, length = facts["list"]
            if version != length:
                add("list is not what was appended", f"{by}: {key} version {version}: {length}")
        if "funds" in facts and done.outcome == ACKNOWLEDGED:
            self._funds(facts["funds"], by)
        if "taken" in facts:
            invoked, positions = facts["taken"]
            self.taken.append(Taken(invoked, positions))
            if "acked" in facts:
                invoked, completed, count = facts["acked"]
                if count == len(positions):
                    self.acked.append(Acked(invoked, completed, positions))

    def _funds(self, funds: int, by: str) -> None:
        if funds != plan.ACCOUNTS * plan.FUNDS:
            self.findings.add("money appears or disappears", f"{by} saw {funds} in all")

    def check(self, log: Log, spans: list[Span], epochs: dict[str, int]) -> None:
        """Check everything; `epochs` are those of the log's entries by the name of the commit."""
        self._check_time(spans)
        self._check_leases(epochs)
        self._check_readers(log)
        self._check_group(log)

    def _check_time(self, spans: list[Span]) -> None:
        """Who was answered before another one was sent comes before it in the log."""
        for position, at in _overtaken(spans):
            text = f"position {position} was answered before position {at} was sent"
            self.findings.add("order is not that of real time", text)

    def _check_leases(self, epochs: dict[str, int]) -> None:
        for key, grants in self.grants.items():
            grants.sort()
            for one, other in pairwise(grants):
                if one.epoch == other.epoch:
                    text = f"{key} epoch {one.epoch}: {one.by} and {other.by}"
                    self.findings.add("two have one lease", text)
        for key, epoch, invoked, name in self.leased:
            if epochs.get(name, epoch) != epoch:
                text = f"{name} wrote {key} with epoch {epoch}; the log has {epochs[name]}"
                self.findings.add("zombie wrote", text)
            for grant in reversed(self.grants[key]):
                if grant.epoch <= epoch:
                    break
                if grant.completed < invoked:
                    text = (
                        f"{name} wrote {key} with epoch {epoch} after {grant.by} had {grant.epoch}"
                    )
                    self.findings.add("zombie wrote", text)
                    break

    def _check_readers(self, log: Log) -> None:
        for after, upto, total, by in self.stretches:
            if upto > log.length or log.stamps[upto] - log.stamps[after] != total:
                text = f"{by}: entries {after + 1} to {upto}"
                self.findings.add("reader of the log saw another log", text)
        for key, version, total, by in self.totals:
            known = log.totals.get(key, [0])
            if version >= len(known) or known[version] != total:
                self.findings.add("sum is not what was counted", f"{by}: {key} version {version}")

    def _check_group(self, log: Log) -> None:
        delivered = {position for taken in self.taken for position in taken.positions}
        for position in sorted(log.jobs.keys() - delivered):
            self.findings.add("never delivered", f"position {position}: {log.jobs[position]}")
        by_key: dict[str, list[Span]] = defaultdict(list)
        done: dict[int, float] = {}
        for acked in self.acked:
            for position in acked.positions:
                if position in done:
                    self.findings.add("acknowledged twice", f"position {position}")
                done[position] = acked.completed
                key = log.jobs.get(position, "")
                by_key[key].append((position, acked.invoked, acked.completed))
        for taken in self.taken:
            for position in taken.positions:
                if done.get(position, float("inf")) < taken.invoked:
                    text = f"position {position}"
                    self.findings.add("delivered after it was acknowledged", text)
        for key, times in by_key.items():
            for position, at in _overtaken(times):
                text = f"{key}: position {position} was done before position {at}"
                self.findings.add("order of a key is not kept", text)


def _overtaken(spans: list[Span]) -> Iterator[tuple[int, int]]:
    """Yield each position that was completed before an earlier one was invoked, and that one."""
    latest, at = float("-inf"), 0
    for position, invoked, completed in sorted(spans):
        if completed < latest:
            yield position, at
        if invoked > latest:
            latest, at = invoked, position
