"""Cases for what Claude's SDKs let users replace: the memory tool, the store of transcripts."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from interlock.verify.frameworks.agents import (
    PATIENCE,
    Connection,
    Gate,
    Report,
    Result,
    acknowledged,
    connected,
    counted,
    refusals,
    together,
    until_told_yes,
)

_AGENTS, _EDITS = 3, 5
_PROJECT = "project"


def check_memory_tool(make: Callable[[], Any], *, patience: float = PATIENCE) -> Report:
    """Try what a memory tool of the `anthropic` SDK keeps, of `BetaAbstractMemoryTool` or its
    asynchronous twin.

    `make()` opens the tool as one more process would: it returns a tool, or a context manager
    (`async with`, too) that gives one.  All of them share one memory, which is empty at first.
    A command that raises anything is sent again, as a model does that is told.  `patience`: seconds
    that agents are held for others.

    The cases: `edits_in_one_turn`, two at once of different lines of one file, several times over;
    `edits_of_agents`, each of lines of its own; `inserts_of_agents`, in one place; `created_twice`,
    a file of one name by several agents.  The memory tool has no step between reading and writing
    at which agents could be held, so a loss shows by chance: nearly always.
    """
    kit = _Memory(make, patience)
    cases = (
        kit.edits_in_one_turn,
        partial(kit.of_agents, "edits_of_agents"),
        partial(kit.of_agents, "inserts_of_agents"),
        kit.created_twice,
    )
    return Report("Claude memory tool", tuple(case() for case in cases))


class _Memory:
    def __init__(self, make: Callable[[], Any], patience: float) -> None:
        self.make = make
        self.patience = patience

    def edits_in_one_turn(self) -> Result:
        case = "edits_in_one_turn"
        self.begin(case, [_todo(agent, n) for agent in range(2) for n in range(_EDITS)])

        async def turns(opened: Connection) -> list[object]:
            answers: list[object] = []
            for n in range(_EDITS):
                edits = (_sent(opened.subject, _edit(case, agent, n)) for agent in range(2))
                answers += await asyncio.gather(*edits, return_exceptions=True)
            return answers

        answers = self.connected(turns)
        done = [f"{agent}-{n}" for n in range(_EDITS) for agent in range(2)]
        done = [each for each, answer in zip(done, answers, strict=True) if isinstance(answer, str)]
        return self.found(case, done, refusals(answers))

    def of_agents(self, case: str) -> Result:
        gate = Gate(_AGENTS, self.patience)
        edits = case == "edits_of_agents"
        todo = [_todo(agent, n) for agent in range(_AGENTS) for n in range(_EDITS)]
        self.begin(case, todo if edits else ["first"])

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                await opened.hold(gate, number)
                for n in range(_EDITS):
                    command = _edit(case, number, n) if edits else _insert(case, number, n)
                    await until_told_yes(partial(_sent, opened.subject, command))

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_AGENTS)], gate)
        agents = acknowledged(answers)
        done = [f"{agent}-{n}" for agent in agents for n in range(_EDITS)]
        return self.found(case, done, refusals(answers))

    def created_twice(self) -> Result:
        case, gate = "created_twice", Gate(_AGENTS, self.patience)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                await opened.hold(gate, number)
                await _sent(opened.subject, _create(case, f"done {number}-0."))

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_AGENTS)], gate)
        done = [f"{n}-0" for n in acknowledged(answers)]
        return self.found(case, done, refusals(answers))

    def begin(self, case: str, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        self.connected(lambda opened: _sent(opened.subject, _create(case, text)))

    def found(self, case: str, done: list[str], refused: list[Exception]) -> Result:
        """Return what the file says is done."""
        command = {"command": "view", "path": _path(case)}
        text = str(self.connected(lambda opened: _sent(opened.subject, command)))
        there = [part.partition(".")[0] for part in text.split("done ")[1:]]
        return counted(case, done, there, refused)

    def connected(self, body: Callable[[Connection], Any]) -> Any:
        return connected(self.make, "call", body, in_loop=True)


async def _sent(tool: Any, command: dict[str, Any]) -> Any:
    """Send a command, in a thread if the tool is synchronous."""
    if inspect.iscoroutinefunction(tool.call):
        return await tool.call(command)
    return await asyncio.to_thread(tool.call, command)


def _path(case: str) -> str:
    return f"/memories/{case}.md"


def _todo(agent: int, n: int) -> str:
    return f"todo {agent}-{n}."


def _create(case: str, text: str) -> dict[str, Any]:
    return {"command": "create", "path": _path(case), "file_text": text}


def _edit(case: str, agent: int, n: int) -> dict[str, Any]:
    old, new = _todo(agent, n), f"done {agent}-{n}."
    return {"command": "str_replace", "path": _path(case), "old_str": old, "new_str": new}


def _insert(case: str, agent: int, n: int) -> dict[str, Any]:
    text = f"done {agent}-{n}.\n"
    return {"command": "insert", "path": _path(case), "insert_line": 0, "insert_text": text}


def check_transcript_store(make: Callable[[], Any], *, patience: float = PATIENCE) -> Report:
    """Try what a `SessionStore` of the Claude Agent SDK keeps of transcripts.

    `make()` opens the store as one more process would: it returns a store, or a context manager
    (`async with`, too) that gives one.  All of them share one database, which is empty at first.
    An append that raises anything is made again, as the SDK does.  `patience`: seconds that
    appenders are held for others.

    The cases: `parallel_appends` to one transcript; `delivered_twice`, a batch after a lost answer;
    `delivered_in_part`, a batch that begins with entries that are there; `without_id`, entries that
    are equal and have no `uuid`, and are no duplicates.
    """
    kit = _Transcripts(make, patience)
    cases = (
        kit.parallel_appends,
        partial(kit.deliveries, "delivered_twice", [["a", "b"], ["a", "b"]], ["a", "b"]),
        partial(kit.deliveries, "delivered_in_part", [["a"], ["a", "b"], ["b"]], ["a", "b"]),
        kit.without_id,
    )
    return Report("Claude Agent SDK session store", tuple(case() for case in cases))


class _Transcripts:
    def __init__(self, make: Callable[[], Any], patience: float) -> None:
        self.make = make
        self.patience = patience

    def parallel_appends(self) -> Result:
        case, gate = "parallel_appends", Gate(_AGENTS, self.patience)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                await opened.hold(gate, number)
                for n in range(_EDITS):
                    entries = [_entry(f"{number}-{n}")]
                    await until_told_yes(partial(opened.subject.append, _key(case), entries))

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_AGENTS)], gate)
        agents = acknowledged(answers)
        done = [f"{agent}-{n}" for agent in agents for n in range(_EDITS)]
        return counted(case, done, self.loaded(case), refusals(answers))

    def deliveries(self, case: str, batches: list[list[str]], expected: list[str]) -> Result:
        async def body(opened: Connection) -> None:
            for batch in batches:
                await opened.subject.append(_key(case), [_entry(each) for each in batch])

        self.connected(body)
        return counted(case, expected, self.loaded(case), [])

    def without_id(self) -> Result:
        case = "without_id"

        async def body(opened: Connection) -> None:
            for _ in range(2):
                await opened.subject.append(_key(case), [{"type": "mode"}])

        self.connected(body)
        found = [f"{n}" for n, _ in enumerate(self.loaded(case))]
        return counted(case, ["0", "1"], found, [])

    def loaded(self, case: str) -> list[str]:
        """Return the ids of the entries that a reader finds."""

        async def body(opened: Connection) -> list[str]:
            entries = await opened.subject.load(_key(case)) or []
            return [entry.get("uuid", "") for entry in entries]

        found: list[str] = self.connected(body)
        return found

    def connected(self, body: Callable[[Connection], Any]) -> Any:
        return connected(self.make, "append", body, in_loop=True)


def _key(session: str) -> dict[str, str]:
    return {"project_key": _PROJECT, "session_id": session}


def _entry(id: str) -> dict[str, Any]:
    message = {"role": "user", "content": id}
    return {"type": "user", "uuid": id, "timestamp": "2026-01-01T00:00:00Z", "message": message}
