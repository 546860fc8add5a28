"""Torture: many processes work on one real store while faults strike; then all of it is checked.

`run` runs a plan and returns a `Report`.  The command line is `interlock.cli.torture`.
"""

from interlock.verify.torture.report import Report
from interlock.verify.torture.runner import new_space, run
from interlock.verify.torture.settings import FAULTS, Settings

__all__ = ["FAULTS", "Report", "Settings", "new_space", "run"]
