"""Refusals in the words of LangGraph: they name the thread and the checkpoint, not a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from interlock import Conflict, Fenced, Held, InterlockError


@contextmanager
def of_thread(thread: str, checkpoint: str | None = None) -> Iterator[None]:
    """Have refusals that are raised within name the thread, and the checkpoint that it was at."""
    try:
        yield
    except Conflict as conflict:
        where = f"checkpoint {checkpoint!r}" if checkpoint else "its beginning"
        what = "has moved on from" if conflict.record.exists else "does not have any more"
        message = (
            f"Thread {thread!r:.80} {what} {where}, by {conflict.writer!r}. "
            "Nothing of this step was stored"
        )
        raise Conflict(
            conflict.outcome.replace(message=message, expected=conflict.expected or 0)
        ) from None
    except Held as held:
        left = f"{held.seconds:.0f} s left unless renewed"
        message = f"{held.holder!r} has a run on thread {thread!r:.80} ({left})"
        raise Held(held.outcome.replace(message=message)) from None
    except Fenced as fenced:
        message = (
            f"Another run took over thread {thread!r:.80} (epoch {fenced.current}; this one has "
            f"{fenced.held})"
        )
        raise Fenced(fenced.outcome.replace(message=message)) from None


class Overtaken(InterlockError):
    """Another run continued the thread after this call's input was stored.  Nothing of the step was
    stored; sending the input again would put it into the thread twice.

    The refusal is the `__cause__`.
    """

    def __init__(self, thread: str) -> None:
        super().__init__(
            f"Another run continued thread {thread!r} after this call had stored its input. "
            "Don't send the input again: it is in the thread. Look at graph.get_state(config), or "
            "continue with graph.invoke(None, config). A Saver prevents this, unless on_busy=None"
        )
        self.thread = thread

    def __reduce__(self) -> tuple[type[Overtaken], tuple[str]]:
        return type(self), (self.thread,)
