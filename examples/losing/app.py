"""Three agents plan a trip in one Redis, and lose each other's work in six ways.

    python -m examples.losing.app redis://localhost:6379/0 --seed 1

`repaired.py` beside it does the same work and loses nothing.  The ledger knows what was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, TypedDict

import redis
from langgraph.graph import END, START, StateGraph

from examples.losing.ledger import Ledger

NAMES = ("scout", "planner", "scribe")
TOPIC, DATE = "lisbon", "2026-11-29"


class Agent:
    """One agent: its own connection, its own name, the shared keys."""

    def __init__(self, name: str, url: str, rng: random.Random, ledger: Ledger) -> None:
        self.name = name
        self.redis = redis.Redis.from_url(url, client_name=name)
        self.rng = rng
        self.ledger = ledger
        self.count = 0
        self.known: dict[str, str] = {}
        self.liked: dict[str, str] = {}
        self.reported: Any = None

    async def think(self) -> None:
        """Stand for a call of a model, which takes its time."""
        await asyncio.sleep(self.rng.uniform(0.002, 0.02))

    def token(self) -> str:
        """Return something new to contribute."""
        self.count += 1
        return f"{self.name}-{self.count}"

    def get(self, key: str, default: Any) -> Any:
        """Read a key."""
        text = self.redis.get(key)
        return default if text is None else json.loads(text)

    def noted(self, key: str, knew: Any, value: Any) -> None:
        """Log a write, as careful applications do, and tell the ledger."""
        line = {"agent": self.name, "ts": time.time(), "value": value}
        self.redis.rpush(f"write_log:{key}", json.dumps(line))
        self.ledger.wrote(key, self.name, knew, value)

    async def book(self) -> None:
        """1. Read, think, write: whoever wrote meanwhile has written for nothing."""
        plan = self.get("trip:plan", {})
        await self.think()
        changed = {**plan, self.name: self.token()}
        self.redis.set("trip:plan", json.dumps(changed))
        self.noted("trip:plan", plan, changed)

    async def take_note(self) -> None:
        """2. Append by get and set."""
        notes = self.get("trip:notes", [])
        await self.think()
        longer = [*notes, self.token()]
        self.redis.set("trip:notes", json.dumps(longer))
        self.noted("trip:notes", notes, longer)

    async def tidy_up(self) -> None:
        """Take out the oldest note, on purpose: it was read a moment before, so nothing is lost."""
        notes = self.get("trip:notes", [])
        if len(notes) > 2:
            self.redis.set("trip:notes", json.dumps(notes[1:]))
            self.noted("trip:notes", notes, notes[1:])
        await self.think()

    async def report(self, topic: str, date: str) -> None:
        """3. A key made of what the task is about, which is the same for every agent."""
        await self.think()
        text = {"by": self.name, "text": f"What {self.token()} found out"}
        key = f"report:{topic}:{date}"
        self.redis.set(key, json.dumps(text))
        self.noted(key, self.reported, text)
        self.reported = text

    async def spend(self) -> None:
        """4. Try again after a conflict, with what was read before it."""
        budget = self.get("trip:budget", {"spent": []})
        while True:
            with self.redis.pipeline() as pipe:
                pipe.watch("trip:budget")  # type: ignore[no-untyped-call]  # as redis-py has it
                await self.think()
                more = {"spent": [*budget["spent"], self.token()]}
                pipe.multi()
                pipe.set("trip:budget", json.dumps(more))
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
            self.noted("trip:budget", budget, more)
            return

    async def remember(self) -> None:
        """6. Keep changes in a buffer, which is written every minute, and at the end."""
        if not self.liked:
            self.known = self.get("trip:preferences", {})
            asyncio.get_running_loop().call_later(60, self.flush)
        self.liked[f"{self.name}-likes"] = self.token()
        await self.think()

    def flush(self) -> None:
        """Write what was read some time ago, with the changes, over whatever is there."""
        if self.liked:
            changed = {**self.known, **self.liked}
            self.liked = {}
            self.redis.set("trip:preferences", json.dumps(changed))
            self.noted("trip:preferences", self.known, changed)

    async def work(self, rounds: int) -> None:
        """Do everything a few times, in an order of its own."""
        for _ in range(rounds):
            steps: list[Callable[[], Awaitable[None]]]
            report = partial(self.report, TOPIC, DATE)
            steps = [self.book, self.take_note, report, self.spend, self.remember]
            self.rng.shuffle(steps)
            for step in (*steps, self.tidy_up):
                await step()
        self.flush()


def newest(old: list[str], new: list[str]) -> list[str]:
    """5. A reducer that keeps one of two: the findings of the other node are gone."""
    return new


class State(TypedDict):
    """What the nodes of the graph share."""

    findings: Annotated[list[str], newest]


def search(agents: list[Agent]) -> None:
    """Let two nodes look for things at the same time."""
    graph = StateGraph(State)

    def node(agent: Agent) -> Any:
        def find(state: State) -> dict[str, list[str]]:
            found = [*state["findings"], agent.token()]
            agent.redis.set("trip:findings", json.dumps(found))
            agent.noted("trip:findings", state["findings"], found)
            return {"findings": found}

        return find

    for agent in agents[:2]:
        graph.add_node(agent.name, node(agent))
        graph.add_edge(START, agent.name)
        graph.add_edge(agent.name, END)
    graph.compile().invoke({"findings": []}, {"max_concurrency": 1})


def run(url: str, seed: int, rounds: int = 3) -> Ledger:
    """Let the agents work; return what they lost."""
    ledger = Ledger()
    agents = [Agent(name, url, random.Random(f"{seed}{name}"), ledger) for name in NAMES]

    async def together() -> None:
        await asyncio.gather(*(agent.work(rounds) for agent in agents))

    try:
        search(agents)
        asyncio.run(together())
    finally:
        for agent in agents:
            agent.redis.close()
    return ledger


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    done = run(arguments.url, arguments.seed)
    print(f"{done.writes} writes; {len(done.lost)} contributions are lost")
