"""Findings for machines: JSON, SARIF 2.1.0, annotations of GitHub Actions."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from interlock.audit.finding import RULES, Finding
from interlock.audit.value import Site


def as_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as the object that `--json` prints."""
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "file": finding.site.file,
        "line": finding.site.line,
        "column": finding.site.column,
        "function": finding.function,
        "message": finding.message,
        "why": finding.why,
        "fix": finding.fix,
        "path": [{"file": s.site.file, "line": s.site.line, "what": s.text} for s in finding.steps],
        "fingerprint": finding.fingerprint,
    }


def as_annotation(finding: Finding) -> str:
    """Return a finding as a command of GitHub Actions, which shows it beside the line."""
    site = finding.site
    message = _escape(f"{finding.message}. {finding.why} Fix: {finding.fix}")
    place = f"file={_escape(site.file, True)},line={site.line},endLine={site.end_line},col={site.column}"
    return f"::{finding.severity} {place},title=interlock {finding.rule}::{message}"


def _escape(text: str, property_: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property_ else text


def as_sarif(findings: list[Finding], version: str) -> dict[str, Any]:
    """Return findings as a SARIF 2.1.0 log."""
    names = list(RULES)
    rules = [
        {
            "id": rule.name,
            "name": "".join(word.capitalize() for word in rule.name.split("-")),
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.about},
        }
        for rule in RULES.values()
    ]
    results = [
        {
            "ruleId": each.rule,
            "ruleIndex": names.index(each.rule),
            "level": each.severity,
            "message": {"text": f"{each.message}. {each.why} Fix: {each.fix}"},
            "locations": [_location(each.site, each.function)],
            "partialFingerprints": {"interlock/v1": each.fingerprint},
            "codeFlows": [
                {
                    "threadFlows": [
                        {
                            "locations": [
                                {
                                    "location": {
                                        **_location(step.site, ""),
                                        "message": {"text": step.text},
                                    }
                                }
                                for step in each.steps
                            ]
                        }
                    ]
                }
            ],
        }
        for each in findings
    ]
    driver = {"name": "interlock audit", "version": version, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
        ],
    }


def _location(site: Site, function: str) -> dict[str, Any]:
    place = {
        "physicalLocation": {
            "artifactLocation": {"uri": PurePath(site.file).as_posix()},
            "region": {
                "startLine": site.line,
                "startColumn": site.column,
                "endLine": site.end_line,
                "endColumn": max(site.end_column, 1),
            },
        }
    }
    if function:
        return {**place, "logicalLocations": [{"fullyQualifiedName": function, "kind": "function"}]}
    return place
