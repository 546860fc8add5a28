"""Strands: sessions in a space that agents don't overwrite for each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from strands import Agent
from strands.models import Model
from strands.session import FileSessionManager
from strands.types.exceptions import SessionException
from strands.types.session import SessionAgent, SessionMessage

import interlock
from interlock.adapters.strands import SessionConflict, SessionFenced, SessionManager, turn
from interlock.verify.frameworks.agents import PATIENCE, Gate, together

RUNS = 5


class Echo(Model):
    """Answers how many messages it was shown; `gate`: when it may."""

    def __init__(self, gate: Callable[[], object] = lambda: None) -> None:
        self.gate = gate

    def update_config(self, **model_config: Any) -> None: ...

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def stream(self, messages: Any, *_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        self.gate()
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"text": f"seen {len(messages)}"}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


def agent(manager: Any, gate: Callable[[], object] = lambda: None, **named: Any) -> Agent:
    return Agent(
        model=Echo(gate),
        session_manager=manager,
        agent_id="helper",
        callback_handler=None,
        **named,
    )


def runs(managers: Callable[[], AbstractContextManager[Any]], patience: float) -> tuple[int, int]:
    """Make five runs of one session at once; return how many succeeded, and how many messages are
    there."""
    gate = Gate(RUNS, patience)

    def run() -> object:
        with managers() as manager:
            helper = agent(manager)  # which reads the session
            gate.wait(helper)
            return helper("question")

    with managers() as manager:
        agent(manager)("hello")
    answers = together([run] * RUNS)
    with managers() as manager:
        kept = len(agent(manager).messages)
    return sum(not isinstance(each, Exception) for each in answers), kept


@pytest.fixture
def memory() -> Iterator[interlock.Space]:
    with interlock.open("sqlite://", agent="a") as found:
        yield found


def test_files_lose_8_of_12(tmp_path: Path) -> None:
    made = lambda: nullcontext(FileSessionManager("s", storage_dir=f"{tmp_path}"))  # noqa: E731
    assert runs(made, PATIENCE) == (5, 4)


def test_turns_keep_12_of_12(shared: interlock.Space) -> None:
    assert runs(lambda: turn(shared, "s"), patience=0.3) == (5, 12)


def test_without_a_turn_others_are_refused_before_their_model_is_asked(
    memory: interlock.Space,
) -> None:
    asked = list[int]()
    one, other = (agent(SessionManager("s/1", memory), lambda: asked.append(1)) for _ in range(2))
    one("hello")
    with pytest.raises(SessionConflict) as refused:
        other("hello")
    assert isinstance(refused.value, SessionException)
    assert asked == [1]
    fresh = agent(SessionManager("s/1", memory))
    fresh("again")
    assert len(agent(SessionManager("s/1", memory)).messages) == 4


def test_state_that_another_agent_changed_is_not_overwritten(memory: interlock.Space) -> None:
    agent(SessionManager("s", memory), state={"n": 0})
    managers = [SessionManager("s", memory) for _ in range(2)]
    one, other = map(agent, managers)
    one.state.set("n", 1)
    one("hello")
    other.state.set("n", 2)
    with pytest.raises(SessionConflict):
        managers[1].sync_agent(other)
    assert agent(SessionManager("s", memory)).state.get("n") == 1


def test_a_turn_that_was_replaced_is_fenced(memory: interlock.Space) -> None:
    with turn(memory, "s") as manager:
        late = agent(manager)
        memory.reclaim("strands/turns/s")
        with pytest.raises(SessionFenced):
            late("hello")
    with turn(memory, "s"), pytest.raises(interlock.Held), turn(memory, "s", wait=0):
        pass
    assert agent(SessionManager("s", memory)).messages == []


def test_messages_are_listed_redacted_and_deleted(memory: interlock.Space) -> None:
    manager = SessionManager("s", memory)
    helper = agent(manager)
    for _ in range(6):
        helper("hello")
    listed = manager.list_messages("s", "helper", limit=2, offset=9)
    assert [each.message_id for each in listed] == [9, 10]
    manager.redact_latest_message({"role": "assistant", "content": [{"text": "***"}]}, helper)
    latest = SessionManager("s", memory).read_message("s", "helper", 11)
    assert latest is not None
    assert latest.to_message()["content"] == [{"text": "***"}]
    assert manager.read_message("s", "helper", 12) is None
    message = SessionMessage({"role": "user", "content": []}, 12)
    with pytest.raises(SessionException):
        manager.update_message("s", "helper", message)
    with pytest.raises(SessionException):
        manager.update_agent("s", SessionAgent("nobody", {}, {}))
    manager.delete_session("s")
    assert memory.list_keys("strands/") == []
    with pytest.raises(SessionException, match="does not exist"):
        manager.delete_session("s")


class Group:
    """What a session knows of agents that work together."""

    id = "group"

    def __init__(self, n: int) -> None:
        self.n = n

    def serialize_state(self) -> dict[str, Any]:
        return {"n": self.n}


def test_the_state_of_a_group_is_not_overwritten(memory: interlock.Space) -> None:
    one, other = (SessionManager("s", memory) for _ in range(2))
    one.create_multi_agent("s", Group(1))
    with pytest.raises(SessionConflict):
        other.update_multi_agent("s", Group(2))  # which it never read
    assert other.read_multi_agent("s", "group") == {"n": 1}
    other.update_multi_agent("s", Group(2))
    with pytest.raises(SessionConflict):
        one.update_multi_agent("s", Group(3))
    assert one.read_multi_agent("s", "group") == {"n": 2}
