"""Loads the plugin in every Python that CrewAI's tests start."""

from __future__ import annotations

import crewai_plugin  # noqa: F401  # what it does when it is imported
