"""What can be wrong with a call of the audit."""

from __future__ import annotations


class SettingsError(ValueError):
    """Settings, a table of stores or a baseline that can't be used; says which line and why."""
