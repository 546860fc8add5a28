"""Runs the torture of one store, from the first worker to the verdict."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import interlock
from interlock.errors import Invalid, Unavailable
from interlock.verify.torture.acting import RULES
from interlock.verify.torture.checking import Checked, check
from interlock.verify.torture.durable import Durable
from interlock.verify.torture.proxying import proxied
from interlock.verify.torture.report import Report, gaps
from interlock.verify.torture.settings import Settings, possible
from interlock.verify.torture.supervising import Crew, Ran

_PATIENCE = 60.0  # seconds for a store that starts again

Progress = Callable[[str, int, int], None]


def run(
    settings: Settings,
    *,
    restart: Callable[[], None] | None = None,
    kept: Path | None = None,
    progress: Progress = lambda stage, done, of: None,
) -> Report:
    """Run the plan of `settings` on its store, check what happened, and return the report.

    `restart` kills or restarts the server and returns when it was told to start again; without
    it that fault is left out.  `kept` is a folder for the histories (docs/how-to/histories.md), one
    file for each window.  `progress` is told the stage, how much of it is done, and how much there
    is.

    Raises Invalid, and Unavailable where the store stays away.
    """
    if settings.operations < settings.workers or settings.workers < 1:
        raise Invalid("torture takes at least one worker, and an operation for each")
    missing = possible(settings.url, restart is not None)
    faults = tuple(fault for fault in settings.faults if fault not in missing)
    asked = {fault: why for fault, why in missing.items() if fault in settings.faults}
    settings = settings._replace(faults=faults)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="interlock-torture-") as name:
        folder = Path(name)
        interlock.open(settings.url, settings.space, "torture", rules=RULES).close()
        durable = Durable(settings)
        ran = _work(settings, folder, restart, durable, progress)
        began = time.monotonic()
        with patiently(settings) as space:
            windows = settings.windows
            checked = check(
                *(settings, space, folder, kept, ran.ended),
                lambda done: progress("checking", done, windows),
            )
        durable.check(checked.findings)
    return _report(settings, asked, ran, checked, time.monotonic() - began)


def new_space(seed: int) -> str:
    """Return the name of a space that nobody has."""
    return f"torture-{seed}-{secrets.token_hex(4)}"


def patiently(settings: Settings) -> interlock.Space:
    """Open the space as soon as the store lets us.  Raises Unavailable."""
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            return interlock.open(settings.url, settings.space, "checker", rules=RULES)
        except Unavailable:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


def _work(
    settings: Settings,
    folder: Path,
    restart: Callable[[], None] | None,
    durable: Durable,
    progress: Progress,
) -> Ran:
    with proxied(settings.url) as (url, proxy):
        crew = Crew(settings, folder, url, proxy, restart, durable)
        try:
            return crew.run(lambda done: progress("working", done, settings.operations))
        finally:
            crew.stop()


def _report(
    settings: Settings, missing: dict[str, str], ran: Ran, checked: Checked, seconds: float
) -> Report:
    tally, findings = checked.tally, checked.findings
    longest, in_all = gaps(tally.acknowledged)
    if ran.crashes:
        findings.add("worker crashed", ran.said, ran.crashes)
    return Report(
        seed=settings.seed,
        space=settings.space,
        store=settings.url.partition("://")[0],
        operations=settings.operations,
        workers=settings.workers,
        kinds=dict(tally.kinds.most_common()),
        outcomes=dict(tally.outcomes.most_common()),
        reasons=dict(tally.reasons.most_common()),
        commits=tally.commits,
        doubtful=len(tally.doubtful),
        doubtful_applied=tally.applied,
        entries=checked.log.length,
        faults={fault: ran.faults[fault] for fault in settings.faults},
        missing=missing,
        crashes=ran.crashes,
        away=round(longest, 3),
        away_in_all=round(in_all, 3),
        seconds=round(ran.seconds, 3),
        checked_in=round(seconds, 3),
        anomalies=dict(findings.counts.most_common()),
        examples=findings.examples,
        undecided=findings.undecided,
    )
