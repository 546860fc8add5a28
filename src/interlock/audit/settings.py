"""What a project says of its audit: `[tool.interlock.audit]`, comments in the code, a baseline."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from interlock.audit.finding import RULES, Finding
from interlock.audit.problem import SettingsError

_COMMENT = re.compile(r"#\s*interlock:\s*ignore(?:\[([\w\s,-]*)\])?(.*)")


@dataclass
class Settings:
    """What is left out, and which stores a project adds."""

    exclude: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)
    stores: list[Mapping[str, Any]] = field(default_factory=list)

    def excludes(self, path: Path) -> bool:
        """Say whether a file is left out."""
        text = path.as_posix()
        return any(fnmatch(text, each) or fnmatch(text, f"*/{each}") for each in self.exclude)


def read_settings(file: Path) -> Settings:
    """Return what `[tool.interlock.audit]` of a pyproject.toml, or a file of stores, says.

    A file without a `tool` table holds the same keys at its top.  Raises SettingsError.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise SettingsError(f"Can't read {file}: {problem}") from problem
    table = document
    if "tool" in document or file.name == "pyproject.toml":
        table = document.get("tool", {}).get("interlock", {}).get("audit", {})
    unknown = set(table) - {"exclude", "ignore", "store"}
    if unknown:
        raise SettingsError(f"{file}: {sorted(unknown)[0]!r} is none of exclude, ignore, store.")
    for name in ("exclude", "ignore"):
        value = table.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise SettingsError(f"{file}: {name} = {value!r} is not a list of texts.")
    check_rules(table.get("ignore", []))
    stores = table.get("store", [])
    if not isinstance(stores, list) or not all(isinstance(each, dict) for each in stores):
        raise SettingsError(f"{file}: store must be an array of tables, [[store]].")
    return Settings(table.get("exclude", []), table.get("ignore", []), stores)


def find_settings(start: Path) -> Settings:
    """Return the settings of the nearest pyproject.toml at or above a folder."""
    folder = start.resolve()
    for each in (folder, *folder.parents):
        if (file := each / "pyproject.toml").is_file():
            return read_settings(file)
    return Settings()


def check_rules(names: Iterable[str]) -> None:
    """Raise SettingsError for a rule that does not exist."""
    for name in names:
        if name not in RULES:
            raise SettingsError(f"{name!r} is no rule. Rules: {', '.join(RULES)}")


def ignored_by_comment(finding: Finding, lines: Mapping[str, list[str]]) -> bool:
    """Say whether a comment on the line of the write or the read, or above it, allows a finding."""
    sites = [finding.site, *([finding.read] if finding.read else [])]
    for site in sites:
        source = lines.get(site.file, [])
        near = [*source[site.line - 1 : site.end_line]]
        above = source[site.line - 2] if site.line >= 2 else ""
        if above.lstrip().startswith("#"):
            near.append(above)
        for text in near:
            match = _COMMENT.search(text)
            if match is None:
                continue
            rules = {each.strip() for each in (match[1] or "").split(",")} - {""}
            if not rules or finding.rule in rules:
                return True
    return False


def write_baseline(file: Path, findings: Iterable[Finding]) -> None:
    """Record findings that are accepted; they are recognised when their lines move."""
    rows = [
        {
            "fingerprint": each.fingerprint,
            "rule": each.rule,
            "file": each.site.file,
            "function": each.function,
        }
        for each in findings
    ]
    file.write_text(json.dumps({"version": 1, "findings": rows}, indent=1) + "\n", "utf-8")


def without_baseline(file: Path, findings: list[Finding]) -> list[Finding]:
    """Return the findings that a baseline does not have.  Raises SettingsError."""
    try:
        document = json.loads(file.read_text("utf-8"))
        accepted = Counter(str(each["fingerprint"]) for each in document["findings"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise SettingsError(f"Can't read the baseline {file}: {problem}") from problem
    new = []
    for finding in findings:
        if accepted[finding.fingerprint]:
            accepted[finding.fingerprint] -= 1
        else:
            new.append(finding)
    return new
