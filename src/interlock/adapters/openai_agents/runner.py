"""The end of a run, said by the runner.

`Runner.run` asks the default runner of the `agents` package for each run.  Ours passes the run on
to the one that was there, and ends the turn of the session when that one has returned or raised:
after an answer, an exception, a cancellation or a timeout, in whatever task.
"""

from __future__ import annotations

from typing import Any

from agents import run
from agents.result import RunResult, RunResultStreaming
from agents.run import AgentRunner

from interlock.adapters.openai_agents.turn import TakesTurns


def install() -> None:
    """Let runs end the turns of their sessions from now on.  Installing twice does nothing."""
    if not isinstance(run.DEFAULT_AGENT_RUNNER, TurnRunner):
        run.set_default_agent_runner(TurnRunner(run.DEFAULT_AGENT_RUNNER))


class TurnRunner(AgentRunner):
    """Runs agents as another runner does, and ends the turn of the session with the run."""

    def __init__(self, inner: AgentRunner) -> None:
        self._inner = inner

    async def run(self, *args: Any, **kwargs: Any) -> RunResult:
        """Run, and end the turn."""
        session = _ours(kwargs.get("session"))
        if session is None:
            return await self._inner.run(*args, **kwargs)
        async with session.run_turn():
            return await self._inner.run(*args, **kwargs)

    def run_sync(self, *args: Any, **kwargs: Any) -> RunResult:
        """Run without asyncio."""
        if type(self._inner) is AgentRunner:
            return super().run_sync(*args, **kwargs)  # it calls `self.run`
        return self._inner.run_sync(*args, **kwargs)

    def run_streamed(self, *args: Any, **kwargs: Any) -> RunResultStreaming:
        """Begin a run in a task of its own, which ends the turn."""
        session = _ours(kwargs.get("session"))
        if session is None or session.current_turn() is not None:
            return self._inner.run_streamed(*args, **kwargs)
        turn = session.new_turn()
        with turn.entered():  # the task takes this context along
            result = self._inner.run_streamed(*args, **kwargs)
        if result.run_loop_task is not None:
            result.run_loop_task = turn.ended_with(result.run_loop_task, session.reads)
        return result


def _ours(session: Any) -> TakesTurns | None:
    """Return the session of ours that a run is given, or that is wrapped in the one it is given."""
    while session is not None and not isinstance(session, TakesTurns):
        session = getattr(session, "underlying_session", None)
    return session
