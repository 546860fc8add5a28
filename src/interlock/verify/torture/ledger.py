"""The ledger of a torture of guards: every write with what it replaced, and what is wrong with it.

Whoever writes notes what it took to be there: a guarded writer what it had read, a blind one what
it found to be destroyed by the very step that destroyed it.  So the writes of a key are one chain:
each value was replaced once, except for the last one.  A guarded write that destroyed a change
unseen claims a value which that change has replaced already; an acknowledged write that is lost was
replaced by nobody.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from interlock.verify.torture.checks import Checked, Doubt, Tally
from interlock.verify.torture.guard_place import GuardPlace, by
from interlock.verify.torture.log import LOST_WRITE, REFUSED_WRITE, Findings
from interlock.verify.torture.plan import Settings, op_id, parse_op_id
from interlock.verify.torture.record import ACKNOWLEDGED, UNKNOWN, Done, read_window

UNSEEN = "unseen change destroyed"
NOBODY = "nobody asked for it"
_UNKNOWN = "?"  # in place of what was replaced


class Write(NamedTuple):
    """One write: the operation, what it replaced (None: nothing was there), and its outcome."""

    name: str
    kind: str
    over: str | None
    deletes: bool
    outcome: str

    @property
    def blind(self) -> bool:
        """Whether it was made around the guard."""
        return self.kind == "overwrite"


class Chain:
    """The writes of one key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.writes: dict[str, Write] = {}
        self.again = 0  # creates that were sent again, and applied again after a delete
        self.operations: set[tuple[int, int]] = set()
        self.seen: dict[str, str] = {}  # by readers: the operation whose value it was, and who read

    def take(self, done: Done) -> None:
        """Note one operation."""
        self.operations.add((done.worker, done.number))
        _, over, name = done.facts.get("sent", ("", None, op_id(done.worker, done.number)))
        for piece in done.pieces:
            if piece.commit:
                over = piece.reads[self.key][1]
            elif (read := piece.reads[self.key][1]) is not None:
                self.seen[read] = name
        if done.kind != "read":
            deletes = done.facts.get("deletes", False)
            self.writes[name] = Write(name, done.kind, over, deletes, done.outcome)

    def blindly_destroyed(self) -> list[Write]:
        """Return the guarded writes that were acknowledged and that blind ones have destroyed."""
        over = [self.writes.get(w.over or "") for w in self.writes.values() if w.blind]
        return [w for w in over if w and not w.blind and w.outcome == ACKNOWLEDGED]

    def check(
        self, final: str | None, kept: set[str], place: GuardPlace, findings: Findings
    ) -> int:
        """Find what is wrong; return how many writes without an answer were applied."""
        tentative, remembers = place.tentative, place.remembers
        applied = {n: w for n, w in self.writes.items() if w.outcome == ACKNOWLEDGED}
        doubtful = {n: w for n, w in self.writes.items() if w.outcome == UNKNOWN}
        claims: dict[str | None, list[Write]] = defaultdict(list)
        for write in applied.values():
            claims[write.over].append(write)
        found = self._resolve(applied, doubtful, claims, final, tentative)
        self._check_names(claims, final, tentative, findings)
        wild = sum(w.over == _UNKNOWN for w in doubtful.values())
        ends = {final, *kept, *(w.over for w in doubtful.values() if w.deletes)}
        for name, write in applied.items():
            if write.deletes or name in ends or claims[name]:
                continue
            rivals = [each.name for each in claims[write.over] if each.name != name]
            if rivals and write.over is not None:
                text = f"{self.key}: {name} and {', '.join(rivals)} both replaced {write.over}"
                findings.add(UNSEEN, text)
            elif wild:
                wild -= 1
            else:
                findings.add(LOST_WRITE, f"{self.key}: {name} was replaced by nobody")
        for over, writes in claims.items():
            names = [write.name for write in writes]
            if over is None or len(names) + (over == final) < 2:
                continue
            made = self.writes.get(over)
            if made and made.over is None and not made.blind and not remembers:
                self.again += len(names) + (over == final) - 1
            elif len(names) > 1 and all(claims.get(name) for name in names):
                findings.add(UNSEEN, f"{self.key}: {', '.join(names)} all replaced {over}")
        self._check_absences(len(claims[None]) + self.again, final, wild, tentative, findings)
        return found

    def _resolve(
        self,
        applied: dict[str, Write],
        doubtful: dict[str, Write],
        claims: dict[str | None, list[Write]],
        final: str | None,
        tentative: bool,
    ) -> int:
        """Find the writes without an answer that were applied: somebody replaced them."""
        found, news = 0, True
        while news:
            news = False
            for name, write in doubtful.items():
                if name in applied or write.deletes or not (claims.get(name) or name == final):
                    continue
                news, found = True, found + 1
                applied[name] = write
                seen_for_a_moment = tentative and write.over is not None and claims[write.over]
                if write.over != _UNKNOWN and not seen_for_a_moment:
                    claims[write.over].append(write)
        return found

    def _check_names(
        self,
        claims: dict[str | None, list[Write]],
        final: str | None,
        tentative: bool,
        findings: Findings,
    ) -> None:
        told = {over: "replaced it" for over, writes in claims.items() if writes and over}
        blind = {over for over, writes in claims.items() if all(w.blind for w in writes)}
        told |= {name: f"{who} read it" for name, who in self.seen.items()}
        told |= {final: "it is there"} if final else {}
        for name, how in told.items():
            write = self.writes.get(name)
            if write is None and parse_op_id(name) not in self.operations:
                findings.add(NOBODY, f"{self.key}: {name}: {how}")
            elif write is not None and write.outcome in (ACKNOWLEDGED, UNKNOWN):
                continue
            elif not tentative or (name not in blind and name not in self.seen):
                findings.add(REFUSED_WRITE, f"{self.key}: {name}: {how}")

    def _check_absences(
        self,
        creates: int,
        final: str | None,
        wild: int,
        tentative: bool,
        findings: Findings,
    ) -> None:
        """Nothing was there in the beginning, and after each delete; each ended with one create."""
        deletes = [w.outcome for w in self.writes.values() if w.deletes]
        least = 1 + deletes.count(ACKNOWLEDGED)
        most = 1 + len(deletes) if tentative else least + deletes.count(UNKNOWN)
        ended = creates + (final is None)
        text = f"{self.key}: nothing was there {least} times, and {ended} began with it"
        if ended > most:
            findings.add(UNSEEN, text)
        elif ended < least - wild:
            findings.add(LOST_WRITE, text)


def check_guarded(
    settings: Settings, place: GuardPlace, folder: Path, kept: Path | None, ended: float
) -> Checked:
    """Check what the workers recorded in `folder` against what is there.

    `kept` is a folder that the ledger is written to.
    """
    findings, tally, chains = Findings(), Tally(ended), dict[str, Chain]()
    for number in range(settings.windows):
        for done in read_window(folder, number, settings.processes):
            tally.take(done, findings)
            key = done.facts.get("sent", ("", None, ""))[0]
            key = next((key for piece in done.pieces for key in piece.reads), key)
            if key:
                chains.setdefault(key, Chain(key)).take(done)
    guard = place.guard("checker")
    aside = place.kept()
    for key, chain in chains.items():
        final = by(guard.read(place.key(key)).value)
        tally.applied += chain.check(final, aside, place, findings)
    writes = [write for chain in chains.values() for write in chain.writes.values()]
    for write in writes:
        if write.outcome == UNKNOWN:
            tally.doubtful.append(Doubt(write.name, write.kind, 0))
        tally.commits += write.outcome == ACKNOWLEDGED and not write.blind
    checked = Checked(findings, tally, len(writes))
    checked.blind = sum(write.blind and write.outcome == ACKNOWLEDGED for write in writes)
    destroyed = {w.name for chain in chains.values() for w in chain.blindly_destroyed()}
    checked.blindly_destroyed = len(destroyed)
    checked.again = sum(chain.again for chain in chains.values())
    if kept is not None:
        _write_ledger(kept / "ledger.jsonl", chains, destroyed)
    return checked


def _write_ledger(path: Path, chains: dict[str, Chain], destroyed: set[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for key, chain in sorted(chains.items()):
            for write in chain.writes.values():
                line = {"key": key, **write._asdict(), "blind": write.blind}
                line["destroyed_blindly"] = write.name in destroyed
                file.write(json.dumps(line) + "\n")
