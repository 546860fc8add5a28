"""What could happen: the lines of Python code that can lose a write, found without running it."""

from __future__ import annotations

from interlock.audit.audit import Report, audit
from interlock.audit.finding import RULES, Finding, Rule
from interlock.audit.problem import SettingsError

__all__ = ["RULES", "Finding", "Report", "Rule", "SettingsError", "audit"]
