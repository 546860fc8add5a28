"""When the call of a graph ends, which LangGraph does not tell its checkpointer.

It tells the callback handlers of LangChain: `on_chain_end` or `on_chain_error` is the last thing
that `invoke` and `stream` do, whatever ended them: an error, a cancellation, a stream that nobody
reads any further.  Every call has a manager of callbacks of its own, with a handler from here in
it.  That does nothing unless the checkpointer asks for it, at the moment when it is first read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

_RUNTIME = "__pregel_runtime"  # is in the config of a call, not in that of get_state, update_state
_TASK_ID = "__pregel_task_id"  # is in the config of what a node calls, such as a subgraph


def is_call(config: RunnableConfig) -> bool:
    """Whether a call of a graph asks, or what it calls."""
    return _RUNTIME in config["configurable"]


def is_within(config: RunnableConfig) -> bool:
    """Whether a node of a graph asks, for a subgraph."""
    return _TASK_ID in config.get("configurable", {})


def in_node() -> bool:
    """Whether the code at work is that of a node, in whatever context the node has made."""
    return is_within(var_child_runnable_config.get() or {})


class End(BaseCallbackHandler):
    """The end of the call that has begun last in this context."""

    run_inline = True  # in the context of the call

    def __init__(self) -> None:
        self._run_id: UUID | None = None

    def on_chain_start(self, *_: object, run_id: UUID, **__: object) -> None:
        """Be the end of the call that begins."""
        self._run_id = run_id
        _begun.set(self)

    def then(self, work: Callable[[], None]) -> None:
        """Call `work` at the end of a synchronous call."""
        own = self._run_id

        def ended(*_: object, run_id: UUID, **__: object) -> None:
            if run_id == own:
                work()

        self._handle(ended)

    def then_await(self, work: Callable[[], Awaitable[None]]) -> None:
        """Await `work` at the end of an asynchronous call, even if that is cancelled."""
        own = self._run_id

        async def ended(*_: object, run_id: UUID, **__: object) -> None:
            if run_id == own:
                await work()

        self._handle(ended)

    def _handle(self, ended: Callable[..., Any]) -> None:
        # LangChain looks at the method to know whether it is to be awaited.
        setattr(self, "on_chain_end", ended)  # noqa: B010  # mypy refuses to assign a method
        setattr(self, "on_chain_error", ended)  # noqa: B010  # the same


class _Ends:
    """Like a context variable whose value is always a new one."""

    def get(self) -> End:
        return End()


_begun: ContextVar[End | None] = ContextVar("interlock_langgraph_call", default=None)
register_configure_hook(cast("ContextVar[Any]", _Ends()), inheritable=False)


def end_of_call() -> End | None:
    """Return the end of the call that begins here; None if it cannot be known."""
    end = _begun.get()
    _begun.set(None)  # it is that of one call
    return end
