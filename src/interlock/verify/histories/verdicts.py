"""What a check of a history returns."""

from __future__ import annotations

from typing import Any, NamedTuple

from interlock.verify.histories.operations import Operation


class Dependency(NamedTuple):
    """Why `before` must come before `after`: one edge of a cycle.

    `kind` is `ww` (wrote the version before), `wr` (wrote what was read), `rw` (read the version
    before), or `rt` (completed before the other was invoked); `scan` says that an `rw` is by a
    scanned prefix that the key was not in.
    """

    kind: str
    key: str
    before: Operation
    after: Operation
    scan: str | None = None

    def __str__(self) -> str:
        first, then = (each.id or f"line {each.line}" for each in (self.before, self.after))
        if self.kind == "rt":
            return f"{first} had completed before {then} was invoked"
        if self.scan is not None:
            return f"{first} scanned {self.scan} without {self.key}, which {then} made (rw)"
        told = {
            "ww": f"{first} wrote {self.key} before {then} overwrote it",
            "wr": f"{first} wrote {self.key} as {then} read it",
            "rw": f"{first} read {self.key} before {then} overwrote it",
        }
        return f"{told[self.kind]} ({self.kind})"


class Anomaly(NamedTuple):
    """One thing that must not happen: its `name`, the keys, the operations, and why.

    `dependencies` is the cycle, in order, where the anomaly is one.  `explanation` says it in
    words.
    """

    name: str
    keys: tuple[str, ...]
    operations: tuple[Operation, ...]
    dependencies: tuple[Dependency, ...]
    explanation: str

    def __str__(self) -> str:
        shown = [f"{self.name} on {', '.join(self.keys) or 'no key'}: {self.explanation}"]
        shown += [f"  {operation}" for operation in self.operations]
        shown += [f"  because {dependency}" for dependency in self.dependencies]
        return "\n".join(shown)

    def to_json(self) -> dict[str, Any]:
        """Return it as `interlock check --json` prints it."""
        return {
            "name": self.name,
            "keys": list(self.keys),
            "explanation": self.explanation,
            "operations": [{"line": o.line, **o.to_json()} for o in self.operations],
            "cycle": [
                {"kind": d.kind, "key": d.key, "before": d.before.line, "after": d.after.line}
                | ({"scan": d.scan} if d.scan is not None else {})
                for d in self.dependencies
            ],
        }


class Verdict(NamedTuple):
    """What a check found.  `anomalies`: shortest first; `undecided`: what it could not decide.

    `found` is how many anomalies there are, also where not all of them are in `anomalies`.
    """

    model: str
    checked: int
    anomalies: tuple[Anomaly, ...]
    undecided: tuple[str, ...]
    found: int

    @property
    def ok(self) -> bool:
        """Whether everything was decided, and nothing was found."""
        return not self.anomalies and not self.undecided

    @property
    def outcome(self) -> str:
        """The verdict in a word: `ok`, `anomalies` or `undecided`."""
        return "anomalies" if self.anomalies else "undecided" if self.undecided else "ok"

    def headline(self) -> str:
        """Say the verdict in one line."""
        if self.ok:
            return f"{self.checked} operations are {self.model}"
        if not self.anomalies:
            return f"{self.checked} operations: undecided whether they are {self.model}"
        many = f"{self.found} anomal{'y' if self.found == 1 else 'ies'}"
        return f"{self.checked} operations are not {self.model}: {many}"

    def __str__(self) -> str:
        shown = [self.headline(), *map(str, self.anomalies)]
        if self.found > len(self.anomalies):
            shown.append(f"... and {self.found - len(self.anomalies)} more")
        return "\n".join([*shown, *(f"undecided: {reason}" for reason in self.undecided)])

    def to_json(self) -> dict[str, Any]:
        """Return it as `interlock check --json` prints it."""
        return {
            "model": self.model,
            "verdict": self.outcome,
            "operations": self.checked,
            "found": self.found,
            "anomalies": [anomaly.to_json() for anomaly in self.anomalies],
            "undecided": list(self.undecided),
        }
