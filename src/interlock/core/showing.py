"""Exceptions of other people's code as text: their `__str__` and `__repr__` may fail, too.

What an agent's function raised ends up in values, reasons and messages.  Showing it must never stop
whoever only wants to go on and say why.
"""

from __future__ import annotations


def sentences(message: str, next_step: str = "") -> str:
    """Return what happened and what to do as sentences, one after the other."""
    return f"{message}{'' if message.endswith(('.', '?', '!')) else '.'} {next_step}".rstrip()


def seconds_left(seconds: float) -> str:
    """Return for how long somebody still has what others want."""
    return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s left unless renewed"


def text_of(problem: BaseException) -> str:
    """Return `str(problem)`, or what it is where that fails."""
    try:
        return str(problem)
    except Exception:
        return f"<{type(problem).__name__} that cannot be shown>"


def repr_of(problem: BaseException) -> str:
    """Return `repr(problem)`, or what it is where that fails."""
    try:
        return repr(problem)
    except Exception:
        return f"<{type(problem).__name__} that cannot be shown>"


def described(problem: BaseException) -> str:
    """Return the type of an exception and its text."""
    return f"{type(problem).__name__}: {text_of(problem)}"
