"""Checks a run: the log as a whole, each window of the plan, and what spans the windows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import interlock
from interlock.verify.histories.linear import check_linearizable
from interlock.verify.histories.operations import Operation
from interlock.verify.histories.reading import write_history
from interlock.verify.histories.serial import check_serializable
from interlock.verify.torture import plan
from interlock.verify.torture.findings import Findings
from interlock.verify.torture.logged import Log, check_records
from interlock.verify.torture.overall import Overall, Taken
from interlock.verify.torture.reconciling import DRAWN, Tally, Window
from interlock.verify.torture.recording import read_window
from interlock.verify.torture.settings import Settings
from interlock.verify.torture.streaming import GROUP, GROUP_PREFIX

_DRAINED_WITHIN = 30.0  # seconds
_ALL = 1_000_000_000  # anomalies
_ASKED = 1000  # doubtful commits whose outcome the store is asked for


class Checked:
    """What the checks found."""

    def __init__(self, findings: Findings, tally: Tally, log: Log) -> None:
        self.findings = findings
        self.tally = tally
        self.log = log


def check(
    settings: Settings,
    space: interlock.Space,
    folder: Path,
    kept: Path | None,
    ended: float,
    progress: Callable[[int], None],
) -> Checked:
    """Check what the workers recorded in `folder` against the store.

    `kept` is a folder that the history of each window is written to.  `progress` is told how many
    windows are done.
    """
    findings = Findings()
    overall = Overall(findings)
    log = Log(settings, folder, findings)
    tally = Tally(ended)
    _drain(space, overall, findings)
    log.read(space.log())
    check_records(log, space.scan())
    epochs: dict[str, int] = {}
    for number in range(settings.windows):
        lines = log.window(number)
        epochs.update((line.name, line.epoch) for line in lines if line.key.startswith("leases/"))
        window = Window(lines, tally, findings)
        for done in read_window(folder, number, settings.workers):
            window.take(done)
            overall.take(done)
        window.finish()
        _check_history(window.history, number, findings)
        if kept is not None:
            write_history(kept / f"history-{number}.jsonl", window.history)
        progress(number + 1)
    overall.check(log, tally.spans, epochs)
    _check_doubtful(space, tally, findings)
    return Checked(findings, tally, log)


def _check_history(history: list[Operation], number: int, findings: Findings) -> None:
    verdicts = (
        check_linearizable(history, limit=_ALL),
        check_serializable(history, strict=True, limit=_ALL),
    )
    for verdict in verdicts:
        for anomaly in verdict.anomalies:
            findings.add(anomaly.name, f"window {number}: {anomaly}")
        findings.undecided += [f"window {number}: {reason}" for reason in verdict.undecided]


def _drain(space: interlock.Space, overall: Overall, findings: Findings) -> None:
    """Take what is left of the group, as one more member, until nothing is."""
    ends = time.monotonic() + _DRAINED_WITHIN
    with space.group(GROUP, prefix=GROUP_PREFIX, ttl=plan.GROUP_TTL) as group:
        while True:
            began = time.monotonic()
            taken = group.take(1000, wait=0.2)
            overall.taken.append(Taken(began, [each.entry.position for each in taken]))
            group.ack(*taken)
            info = group.info()
            if not taken and info.cursor >= info.head and not info.pending:
                return
            if time.monotonic() > ends:
                left = len(info.pending)
                findings.add("never delivered", f"the group still has {left} entries", left)
                return


def _check_doubtful(space: interlock.Space, tally: Tally, findings: Findings) -> None:
    """Ask the store what became of commits whose answer was lost, and compare with the log."""
    for doubt in tally.doubtful[:_ASKED]:
        outcome = space.outcome(doubt.name)
        told = len(outcome.writes) if outcome else 0
        if told != doubt.entries and doubt.kind not in DRAWN:
            text = f"{doubt.name}: {doubt.entries} entries in the log, outcome says {told}"
            findings.add("outcome is not what the log says", text)
