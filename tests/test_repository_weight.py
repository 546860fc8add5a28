"""How many packages an install of Interlock brings along."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repository import ROOT, text_of

MOST_PACKAGES = 9  # of the base install, Interlock itself included
PROJECT = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def closure(needs: Iterable[str]) -> set[str]:
    """Return the packages that requirements bring along, as they are installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [(need, "") for need in needs]
    while waiting:
        need, extra = waiting.pop()
        asked = Requirement(need)
        if asked.marker is not None and not asked.marker.evaluate({"extra": extra}):
            continue
        for each in ("", *asked.extras):
            if (name := (canonicalize_name(asked.name), each)) not in found:
                found.add(name)
                waiting += [(need, each) for need in metadata.requires(asked.name) or ()]
    return {name for name, _ in found}


def test_the_base_install_is_light() -> None:
    packages = closure(PROJECT["dependencies"])
    assert {"click", "rich", "pygments"} <= packages
    assert len(packages) + 1 <= MOST_PACKAGES, sorted(packages)


def test_packages_are_counted_with_all_that_they_need() -> None:
    found = closure(["mcp>=2.0"])
    assert {"mcp", "pydantic-core", "pycparser"} <= found
    assert len(found) > MOST_PACKAGES
    assert "psycopg-pool" in closure(["psycopg[pool]"]) - closure(["psycopg"])


def test_the_page_says_what_each_extra_asks_for() -> None:
    page = text_of(ROOT / "docs" / "reference" / "extras.md")
    rows = dict(re.findall(r"^\| `([\w-]+)` \|[^|]+\| (`[^|]+?)(?:, not `[^|]+)? \|", page, re.M))
    wanted = {
        name: [re.split("[><=]", need)[0] for need in needs] for name, needs in EXTRAS.items()
    }
    assert {name: re.findall(r"`([^`]+)`", needs) for name, needs in rows.items()} == wanted


def test_the_page_counts_the_base_install_right() -> None:
    page = text_of(ROOT / "docs" / "reference" / "extras.md")
    named = set(re.findall(r"`([\w-]+)`", page.partition("Importing")[0])) - {"interlock"}
    assert named == closure(PROJECT["dependencies"])
