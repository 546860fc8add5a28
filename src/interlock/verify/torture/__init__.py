"""Torture: many processes work on one real store while faults strike; then all of it is checked.

`run` runs a plan and returns a `Report`.  The command line is `interlock.cli.torture`.
"""

from interlock.verify.torture.plan import FAULTS, Settings
from interlock.verify.torture.runner import Report, new_space, run

__all__ = ["FAULTS", "Report", "Settings", "new_space", "run"]
