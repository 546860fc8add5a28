"""The simulator: real agents on one real store, the usual ways and Interlock's, side by side.

`run` runs one pattern and returns a `Result`.  The command line is `interlock.cli.simulate`.
"""

from interlock.verify.simulate.patterns import PATTERNS, Pattern
from interlock.verify.simulate.results import Result, Thought
from interlock.verify.simulate.runner import run
from interlock.verify.simulate.settings import Settings

__all__ = ["PATTERNS", "Pattern", "Result", "Settings", "Thought", "run"]
