"""What the cases of the kit find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """What one case found.

    `expected` counts what was acknowledged, or must have happened, `kept` what is there afterwards
    (of effects: how often they ran).  `explanation` is a sentence for people.
    """

    case: str
    expected: int
    kept: int
    passed: bool
    explanation: str


@dataclass(frozen=True)
class Report:
    """The results of all cases, for one subject; prints as a table.  `report["case"]` is one."""

    subject: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Say whether nothing that was acknowledged is lost, in any case."""
        return all(result.passed for result in self.results)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the cases that found a loss."""
        return tuple(result.case for result in self.results if not result.passed)

    def __getitem__(self, case: str) -> Result:
        return next(result for result in self.results if result.case == case)

    def __str__(self) -> str:
        rows = [("case", "expected", "kept", "", "")]
        for each in self.results:
            verdict = "ok" if each.passed else "LOST"
            rows.append((each.case, f"{each.expected}", f"{each.kept}", verdict, each.explanation))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{case:<{widths[0]}}  {expected:>{widths[1]}}  {kept:>{widths[2]}}  "
            f"{verdict:<{widths[3]}}  {explanation}".rstrip()
            for case, expected, kept, verdict, explanation in rows
        ]
        return "\n".join([self.subject, *lines])


def counted(
    case: str, expected: Iterable[str], found: Iterable[str], refusals: Collection[object]
) -> Result:
    """Return how much of what was acknowledged is there, each once; refusals were told."""
    wanted, there = list(expected), Counter(found)
    missing = [each for each in wanted if there[each] == 0]
    twice = [each for each in wanted if there[each] > 1]
    kept = len(wanted) - len(missing) - len(twice)
    told = [f"{len(refusals)} refused, and told so"] if refusals else []
    if not wanted:
        told.append("nothing was ever acknowledged")
    if missing:
        told.append(f"acknowledged, and not there: {', '.join(missing)}")
    if twice:
        told.append(f"there more than once: {', '.join(twice)}")
    said = "; ".join(told) or "all that was acknowledged is there"
    return Result(case, len(wanted), kept, kept == len(wanted) > 0, said)


def effects(case: str, expected: int, ran: int, what: str) -> Result:
    """Return how often something ran that must run an exact number of times."""
    passed = ran == expected
    return Result(
        case, expected, ran, passed, f"{what} ran {ran} times, not {expected}" * (not passed)
    )
