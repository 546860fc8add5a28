"""Watches a source: overlapping writes, losses, and in a space refusals, leases and queues."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
import tomllib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import interlock
from interlock import Json
from interlock.core import read
from interlock.core.records import as_datetime
from interlock.errors import Fault, Invalid, Unavailable
from interlock.forensics.analyzer import Analyzer
from interlock.forensics.feeds import Feed, SpaceFeed
from interlock.forensics.loss import CERTAIN, LIKELY, POSSIBLE, Loss

OVERLAP, LOSS, REFUSAL = "overlap", "loss", "refusal"
ILLEGAL, FENCE, LEASE, QUEUE = "illegal_transition", "fence", "lease", "queue"
KINDS = (OVERLAP, LOSS, REFUSAL, ILLEGAL, FENCE, LEASE, QUEUE)
_REASONS = {"IllegalTransition": ILLEGAL, "Fenced": FENCE}
_LOOKS_EVERY = 0.5  # seconds between two looks at refusals and queues
_DOCTOR_EVERY = 10.0
_ACTIVE = 200  # keys whose queues are looked at
_TRIES, _FIRST_WAIT, _HOOK_TAKES = 4, 0.25, 10.0
_WAITING = 1000  # alerts that no hook has had yet
_LONGEST_WAIT = 2.0  # seconds between two tries to reach a server that is away


class Alert(NamedTuple):
    """Something that happened: `kind` is one of `overlap`, `loss`, `refusal`, `illegal_transition`,
    `fence`, `lease`, `queue`; `details` are those of the loss or the overlap."""

    kind: str
    key: str
    text: str
    time_us: int
    details: Mapping[str, Json] = {}  # never changed

    def to_json(self) -> dict[str, Json]:
        """Return the alert as an object."""
        when = as_datetime(self.time_us).isoformat()
        told = {"kind": self.kind, "key": self.key, "text": self.text, "time": when}
        return {**told, **({"details": dict(self.details)} if self.details else {})}


class Thresholds(NamedTuple):
    """How many of a kind a key may have within `per` seconds before an alert is raised (0: none is
    ever raised); `queue`: how many wait; `certainty`: the least that counts as a loss."""

    overlap: int = 1
    loss: int = 1
    refusal: int = 1
    illegal_transition: int = 1
    fence: int = 1
    lease: int = 1
    queue: int = 5
    per: float = 60.0
    certainty: str = POSSIBLE


def read_thresholds(path: Path) -> Thresholds:
    """Read thresholds from the table `[monitor]` of a TOML file.  Raises Invalid, Unavailable."""
    try:
        with path.open("rb") as file:
            given = tomllib.load(file).get("monitor", {})
    except OSError as problem:
        raise Unavailable(f"Can't read {path}: {problem.strerror}") from problem
    except tomllib.TOMLDecodeError as problem:
        raise Invalid(f"{path} is not TOML: {problem}") from problem
    defaults = Thresholds()._asdict()
    for name, value in given.items():
        if name not in defaults:
            raise Invalid(f"{path}: {name!r} is no threshold. Use {', '.join(defaults)}.")
        if name == "certainty":
            ok = value in (CERTAIN, LIKELY, POSSIBLE)
        else:
            ok = type(value) in (int, type(defaults[name])) and value >= 0
        if not ok:
            raise Invalid(f"{path}: {name} = {value!r} is out of range.")
    return Thresholds(**{**defaults, **given})


class Watcher:
    """Watches what a feed adds.  `poll` returns what is to be raised, `counts` has all by key.

    `position_file`: where the feed's position is kept, so that a watcher that is started again
    misses nothing; it may raise an alert of the last moment twice.  Raises Invalid, Unavailable.
    """

    def __init__(
        self,
        open_feed: Callable[[Json], Feed],
        *,
        window: float = 0.1,
        think: float = 60.0,
        thresholds: Thresholds | None = None,
        position_file: Path | None = None,
    ) -> None:
        self._file = position_file
        saved = _read_position(position_file)
        self.feed = open_feed(saved.get("feed"))
        self._refused_us: int = saved.get("refused_us", time.time_ns() // 1000)
        self._limits = thresholds or Thresholds()
        self._analyzer = Analyzer(
            round(window * 1e6), round(think * 1e6), from_start=self.feed.from_start
        )
        self.counts: dict[str, dict[str, int]] = {}
        self.found: Counter[str] = Counter()  # by kind
        self.raised: Counter[str] = Counter()
        self.away: str | None = None
        self._recent: dict[tuple[str, str], deque[float]] = {}
        self._active: dict[str, None] = {}
        self._next_look = self._next_doctor = 0.0
        self._hanging: set[str] = set()
        self._queued: dict[str, int] = {}
        self._wait = 0.1
        self._dirty = True
        for event in self.feed.context():
            self._analyzer.see(event)

    def poll(self, seconds: float = 0.1) -> list[Alert]:
        """Return what is new, waiting at most so long.  A server that is away is waited for: `away`
        says why, None while it is there."""
        try:
            found = list(self._events(seconds))
            if isinstance(self.feed, SpaceFeed) and time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + _LOOKS_EVERY
                found += self._refusals(self.feed)
                found += self._queues(self.feed)
            if isinstance(self.feed, SpaceFeed) and time.monotonic() >= self._next_doctor:
                self._next_doctor = time.monotonic() + _DOCTOR_EVERY
                found += self._leases(self.feed)
        except (Fault, Unavailable) as problem:
            self.away = str(problem)
            time.sleep(self._wait)
            self._wait = min(self._wait * 2, _LONGEST_WAIT)
            return []
        self.away, self._wait = None, 0.1
        return [alert for alert in found if self._counted(alert)]

    @property
    def longest_queue(self) -> int:
        """How many wait in the longest queue."""
        return max(self._queued.values(), default=0)

    @property
    def hanging(self) -> int:
        """How many leases have expired and were not given up."""
        return len(self._hanging)

    def save(self) -> None:
        """Keep the position: what was returned so far has been delivered."""
        if self._file is not None and self._dirty:
            text = json.dumps({"feed": self.feed.position, "refused_us": self._refused_us})
            temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            temporary.write_text(text, "utf-8")
            temporary.replace(self._file)
            self._dirty = False

    def close(self) -> None:
        """Keep the position, and close the feed."""
        self.save()
        self.feed.close()

    def _events(self, seconds: float) -> Iterator[Alert]:
        for event in self.feed.poll(seconds):
            self._dirty = True
            self._active.pop(event.key, None)
            self._active[event.key] = None
            for found in self._analyzer.see(event):
                kind = LOSS if isinstance(found, Loss) else OVERLAP
                if isinstance(found, Loss) and not self._sure(found):
                    continue
                yield Alert(kind, found.key, str(found), found.time_us, found.to_json())
        while len(self._active) > _ACTIVE:
            del self._active[next(iter(self._active))]

    def _sure(self, loss: Loss) -> bool:
        order = (CERTAIN, LIKELY, POSSIBLE)
        return order.index(loss.certainty) <= order.index(self._limits.certainty)

    def _refusals(self, feed: SpaceFeed) -> Iterator[Alert]:
        notes = [n for n in feed.space.conflicts(_ACTIVE).refusals if n.time_us > self._refused_us]
        for note in sorted(notes, key=lambda note: note.time_us):
            self._refused_us, self._dirty = note.time_us, True
            self._active[note.key] = None
            other = f" (against {note.other})" if note.other else ""
            kind = _REASONS.get(note.reason, REFUSAL)
            text = f"{note.key}: {note.agent} was refused: {note.reason}{other}"
            yield Alert(kind, note.key, text, note.time_us, {"reason": note.reason})

    def _queues(self, feed: SpaceFeed) -> Iterator[Alert]:
        session = feed.space.session
        found = session.run(read.load(session.writer, tuple(self._active)))
        for key, length in found.queued.items():
            if self._limits.queue <= length != self._queued.get(key) and self._limits.queue:
                text = f"{key}: {length} wait in the queue"
                yield Alert(QUEUE, key, text, found.time_us, {"length": length})
        self._queued = dict(found.queued)

    def _leases(self, feed: SpaceFeed) -> Iterator[Alert]:
        hanging = set()
        with interlock.Store(feed.url) as store:
            for finding in store.doctor():
                if finding.level == "wrong" and finding.found.startswith("the lease of "):
                    hanging.add(finding.found.split(" expired ")[0])
                    if finding.found.split(" expired ")[0] not in self._hanging:
                        key = finding.found.split("'")[1]
                        now = time.time_ns() // 1000
                        yield Alert(LEASE, key, f"{finding.check}: {finding.found}", now)
        self._hanging = hanging

    def _counted(self, alert: Alert) -> bool:
        """Count an alert; whether it is to be raised."""
        counts = self.counts.setdefault(alert.key, dict.fromkeys(KINDS, 0))
        counts[alert.kind] += 1
        self.found[alert.kind] += 1
        raised = self._is_raised(alert)
        self.raised[alert.kind] += raised
        return raised

    def _is_raised(self, alert: Alert) -> bool:
        limit: int = getattr(self._limits, alert.kind)
        if alert.kind in (QUEUE, LEASE) or limit <= 1:
            return limit > 0
        recent = self._recent.setdefault((alert.key, alert.kind), deque(maxlen=limit))
        recent.append(alert.time_us / 1e6)
        raised = len(recent) == limit and recent[-1] - recent[0] <= self._limits.per
        if raised:
            recent.clear()
        return raised


def _read_position(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        saved = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise Invalid(f"{path} is not a position file: {problem}") from problem
    if not isinstance(saved, dict):
        raise Invalid(f"{path} is not a position file.")
    return saved


class Hooks:
    """Hands alerts to a command (its JSON on standard input) and to a URL (POST), in a thread.

    Each alert is tried four times, within seconds; `failed` is called with what then has failed.
    """

    def __init__(
        self, command: str | None, url: str | None, failed: Callable[[str], object]
    ) -> None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise Invalid(f"--webhook {url!r} must be an http or https URL.")
        self._command, self._url, self._failed = command, url, failed
        self._alerts: queue.Queue[Alert | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        if command or url:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def put(self, alert: Alert) -> None:
        """Have an alert delivered; one too many is reported as failed."""
        if self._thread is None:
            return
        try:
            self._alerts.put_nowait(alert)
        except queue.Full:
            self._failed(f"{_WAITING} alerts wait; one was left out: {alert.text}")

    def close(self) -> None:
        """Deliver what waits, and stop."""
        if self._thread is not None:
            self._alerts.put(None)
            self._thread.join(_HOOK_TAKES * _TRIES)

    def _work(self) -> None:
        while (alert := self._alerts.get()) is not None:
            body = json.dumps(alert.to_json(), ensure_ascii=False).encode()
            for name, deliver in (("--exec", self._run), ("--webhook", self._post)):
                self._deliver(name, deliver, body)

    def _deliver(self, name: str, deliver: Callable[[bytes], None], body: bytes) -> None:
        for tried in range(_TRIES):
            try:
                return deliver(body)
            except (OSError, subprocess.SubprocessError) as problem:
                if tried == _TRIES - 1:
                    self._failed(f"{name} has failed {_TRIES} times: {problem}")
                else:
                    time.sleep(_FIRST_WAIT * 2**tried)
        return None

    def _run(self, body: bytes) -> None:
        if self._command is not None:
            subprocess.run(self._command, shell=True, input=body, check=True, timeout=_HOOK_TAKES)

    def _post(self, body: bytes) -> None:
        if self._url is None:
            return
        from urllib.request import Request, urlopen

        request = Request(self._url, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=_HOOK_TAKES) as answer:
            answer.read()
