"""Every rule on small code that loses writes, and on code that looks like it and does not.

A function or class of `corpus/RULE*.py` is marked on its first line: `# racy` (or `# racy: NAME`,
where the finding is in another function) or `# safe`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from interlock.audit import RULES, audit

CORPUS = Path(__file__).parent / "corpus"
MARK = re.compile(r"^\s*(?:async )?(def|class) (\w+).*# (racy|safe)(?:: (\w+))?$")
FEWEST = 10  # snippets of each kind, a rule


def files(rule: str) -> list[Path]:
    """Return the files with the snippets of a rule."""
    return sorted(CORPUS.glob(f"{rule.replace('-', '_')}*.py"))


def snippets(rule: str) -> list[tuple[str, str, str]]:
    """Return name, mark and where the finding is, of each snippet of a rule."""
    lines = [line for path in files(rule) for line in path.read_text("utf-8").splitlines()]
    matches = [match for match in map(MARK.match, lines) if match]
    return [(match[2], match[3], match[4] or match[2]) for match in matches]


@cache
def found(rule: str) -> dict[str, set[str]]:
    """Return the rules that are found, by the parts of the name of the function they are in."""
    rules: dict[str, set[str]] = defaultdict(set)
    for finding in audit(files(rule)).findings:
        for name in finding.function.split("."):
            rules[name].add(finding.rule)
    return rules


CASES = [
    pytest.param(rule, *each, id=f"{rule}-{each[0]}") for rule in RULES for each in snippets(rule)
]


@pytest.mark.parametrize(("rule", "name", "mark", "where"), CASES)
def test_racy_code_is_found_and_safe_code_is_not(
    rule: str, name: str, mark: str, where: str
) -> None:
    if mark == "racy":
        assert rule in found(rule)[where]
    else:
        assert found(rule)[where] == set()


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_enough_snippets_of_both_kinds(rule: str) -> None:
    marks = [mark for _, mark, _ in snippets(rule)]
    assert min(marks.count("racy"), marks.count("safe")) >= FEWEST
