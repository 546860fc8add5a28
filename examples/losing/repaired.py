"""The agents of `app.py`, each of the six causes repaired: the same work, and nothing is lost.

python -m examples.losing.repaired redis://localhost:6379/0 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import random
import time
from typing import Annotated, Any, TypedDict

import redis
from langgraph.graph import END, START, StateGraph

from examples.losing.app import DATE, NAMES, TOPIC
from examples.losing.ledger import Ledger
from interlock import guards


class Agent:
    """One agent: what it shares, it writes through a guard, or in one step of the server."""

    def __init__(self, name: str, url: str, rng: random.Random, ledger: Ledger) -> None:
        self.name = name
        self.redis = redis.Redis.from_url(url, client_name=name)
        self.guard = guards.redis(self.redis, agent=name)
        self.rng = rng
        self.ledger = ledger
        self.count = 0
        self.reported: Any = None

    async def think(self) -> None:
        """Stand for a call of a model, which takes its time."""
        await asyncio.sleep(self.rng.uniform(0.002, 0.02))

    def token(self) -> str:
        """Return something new to contribute."""
        self.count += 1
        return f"{self.name}-{self.count}"

    def noted(self, key: str, knew: Any, value: Any) -> None:
        """Log a write, and tell the ledger."""
        line = {"agent": self.name, "ts": time.time(), "value": value}
        self.redis.rpush(f"write_log:{key}", json.dumps(line))
        self.ledger.wrote(key, self.name, knew, value)

    def change(self, key: str, field: str, value: Any) -> None:
        """Set one field, whatever the others hold by now."""
        known: dict[str, Any] = {}

        def changed(value_now: Any) -> Any:
            known["value"] = value_now
            return {**(value_now or {}), field: value}

        new = self.guard.update(key, changed).value
        self.noted(key, known["value"], new)

    def push(self, key: str, item: str) -> None:
        """Append in one step of the server."""
        with self.redis.pipeline() as pipe:
            pipe.rpush(key, json.dumps(item))
            pipe.lrange(key, 0, -1)
            items = [json.loads(each) for each in pipe.execute()[1]]
        self.noted(key, items[:-1], items)

    async def book(self) -> None:
        """1. The guard compares with what was read."""
        await self.think()
        self.change("trip:plan", self.name, self.token())

    async def take_note(self) -> None:
        """2. Appending is the server's own step."""
        await self.think()
        self.push("trip:notes", self.token())

    async def report(self) -> None:
        """3. The key says whose report it is."""
        await self.think()
        text = {"by": self.name, "text": f"What {self.token()} found out"}
        key = f"report:{self.name}:{TOPIC}:{DATE}"
        self.redis.set(key, json.dumps(text))
        self.noted(key, self.reported, text)
        self.reported = text

    async def spend(self) -> None:
        """4. Every try reads again: the guard's update does."""
        await self.think()
        cost, known = self.token(), {}

        def more(budget: Any) -> Any:
            known["value"] = budget
            return {"spent": [*(budget or {"spent": []})["spent"], cost]}

        value = self.guard.update("trip:budget", more).value
        self.noted("trip:budget", known["value"], value)

    async def remember(self) -> None:
        """6. What was learned is written when it is learned, its field only."""
        await self.think()
        self.change("trip:preferences", f"{self.name}-likes", self.token())

    async def work(self, rounds: int) -> None:
        """Do everything a few times, in an order of its own."""
        for _ in range(rounds):
            steps = [self.book, self.take_note, self.report, self.spend, self.remember]
            self.rng.shuffle(steps)
            for step in steps:
                await step()


class State(TypedDict):
    """What the nodes share. 5. The reducer of a list appends: both nodes' findings stay."""

    findings: Annotated[list[str], operator.add]


def search(agents: list[Agent]) -> list[str]:
    """Let two nodes look for things at the same time."""
    graph = StateGraph(State)

    def node(agent: Agent) -> Any:
        def find(state: State) -> dict[str, list[str]]:
            found = agent.token()
            agent.push("trip:findings", found)
            return {"findings": [found]}

        return find

    for agent in agents[:2]:
        graph.add_node(agent.name, node(agent))
        graph.add_edge(START, agent.name)
        graph.add_edge(agent.name, END)
    state = graph.compile().invoke({"findings": []}, {"max_concurrency": 1})
    findings: list[str] = state["findings"]
    return findings


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
