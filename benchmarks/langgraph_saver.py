"""The LangGraph checkpointer beside LangGraph's own, on SQLite and on PostgreSQL."""

from __future__ import annotations

import importlib
import operator
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph

import interlock
from benchmarks.cases import Row, alternating, spread
from benchmarks.servers import server, space_name
from interlock.adapters.langgraph import Saver
from tests.servers.postgres import Postgres

_FEW = 20  # calls in one round
_MESSAGES = [f"message {n}, of the length that a sentence has" for n in range(10)]


class _State(TypedDict):
    messages: Annotated[list[str], operator.add]


def langgraph_saver(folder: Path, scale: int) -> list[Row]:
    """Interleaved rounds on the same machine and server."""
    rows = []
    for name, ours, theirs in _pairs(folder):
        for saver in (ours, theirs):
            _put(saver, "kept")
        for what, target, call in _CASES:
            ratios = alternating(partial(call, ours), partial(call, theirs), max(scale // 4, 5) + 1)
            figure = spread([1 / each for each in ratios[1:]])
            how = "time beside LangGraph's own saver; above 1: ours is slower"
            rows.append(Row(f"{name}: LangGraph saver, {what}", figure, target, how))
    return rows


def _pairs(folder: Path) -> Iterator[tuple[str, Saver, BaseCheckpointSaver[Any]]]:
    # From the group `bench`, which the environment of the tests does not have.
    sqlite: Any = importlib.import_module("langgraph.checkpoint.sqlite")
    postgres: Any = importlib.import_module("langgraph.checkpoint.postgres")
    with sqlite.SqliteSaver.from_conn_string(str(folder / "theirs.db")) as theirs:
        theirs.setup()
        # As long as an acknowledged write is to survive: the same for both.
        theirs.conn.execute("PRAGMA synchronous=FULL")
        with interlock.open(f"sqlite:///{folder / 'ours.db'}", agent="bench") as space:
            yield "SQLite", Saver(space), theirs
    with (
        server(Postgres, "postgres", folder) as url,
        postgres.PostgresSaver.from_conn_string(url) as theirs,
        interlock.open(url, space=space_name(), agent="bench") as space,
    ):
        theirs.setup()
        yield "PostgreSQL", Saver(space), theirs


def _named(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}


def _put(saver: BaseCheckpointSaver[Any], thread: str = "") -> None:
    config, version = _named(thread or secrets.token_hex(4)), None
    for step in range(_FEW):
        version = saver.get_next_version(version, None)
        versions = {"messages": version, "branch:to:answer": version}
        checkpoint = empty_checkpoint()
        checkpoint["id"] = str(uuid6(clock_seq=step))
        checkpoint["channel_values"] = {"messages": _MESSAGES, "branch:to:answer": None}
        checkpoint["channel_versions"] = versions
        metadata: Any = {"source": "loop", "step": step, "parents": {}}
        config = saver.put(config, checkpoint, metadata, versions)


def _put_writes(saver: BaseCheckpointSaver[Any]) -> None:
    found = saver.get_tuple(_named("kept"))
    assert found is not None
    for _ in range(_FEW):
        saver.put_writes(found.config, [("messages", _MESSAGES[:1])], secrets.token_hex(8))


def _get_tuple(saver: BaseCheckpointSaver[Any]) -> None:
    for _ in range(_FEW):
        assert saver.get_tuple(_named("kept")) is not None


def _call(saver: BaseCheckpointSaver[Any]) -> None:
    builder = StateGraph(_State)
    builder.add_node("answer", lambda state: {"messages": ["re: " + state["messages"][-1]]})
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    graph: Any = builder.compile(checkpointer=saver)
    for _ in range(_FEW // 4):
        graph.invoke({"messages": ["hello"]}, _named(secrets.token_hex(4)))


Case = tuple[str, str, Callable[[BaseCheckpointSaver[Any]], None]]
_CASES: tuple[Case, ...] = (
    ("put", "at most 1.5x", _put),
    ("get_tuple", "at most 1.5x", _get_tuple),
    ("put_writes", "", _put_writes),
    ("a call of a graph, with its lease", "", _call),
)

CASES = (langgraph_saver,)
