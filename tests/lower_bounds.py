"""The lower bounds of the extras, tried as pyproject.toml has them: `make lower-bounds`.

For each extra an environment is made with the oldest versions that it allows of the packages that
it names (`uv pip install --resolution lowest-direct`), on the oldest Python, and a little of what
the extra is for is done in it.  It downloads, so it is no part of `make test`.

    python -m tests.lower_bounds [EXTRA ...]
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.lower_bounds_frameworks import (
    adk,
    agent_framework,
    anthropic,
    autogen,
    claude_agent,
    crewai,
    fastmcp,
    llama_index,
    openai_agents,
    pydantic_ai,
    strands,
)

ROOT = Path(__file__).parent.parent
PYTHON = "3.11"
UV = os.environ.get("UV", "uv")
PIP_INSTALL = (UV, "pip", "install", "--quiet", "--resolution", "lowest-direct")


def langgraph(url: str) -> None:
    """Put checkpoints and items, and read them."""
    from langgraph.checkpoint.base import empty_checkpoint

    import interlock
    from interlock.adapters.langgraph import Saver, Store

    with interlock.open(url) as space:
        saver, store = Saver(space), Store(space)
        for source in ("input", "loop"):
            with saver.run("thread") as config:
                newest: Any = saver.get_tuple(config)
                parent: Any = config if newest is None else {**config, **newest.config}
                parent["configurable"] = {**config["configurable"], **parent["configurable"]}
                parent["configurable"].setdefault("checkpoint_ns", "")
                made: Any = {**empty_checkpoint(), "channel_values": {"c": {1, 2}}}
                made["channel_versions"] = {"c": saver.get_next_version(None, None)}
                about: Any = {"source": source, "step": 1, "parents": {}}
                written: Any = saver.put(parent, made, about, made["channel_versions"])
                written["configurable"] = {**parent["configurable"], **written["configurable"]}
                saver.put_writes(written, [("c", 1)], "task")
        found: Any = saver.get_tuple({"configurable": {"thread_id": "thread"}})
        assert found.checkpoint["channel_values"] == {"c": {1, 2}}
        assert len(list(saver.list({"configurable": {"thread_id": "thread"}}))) == 2
        assert saver.get_delta_channel_history(config=found.config, channels=["c"])["c"]
        saver.copy_thread("thread", "copy")
        saver.prune(["thread"])
        saver.delete_thread("thread")
        assert asyncio.run(saver.aget_tuple({"configurable": {"thread_id": "copy"}}))
        store.put(("a",), "k", {"n": 1}, ttl=5)
        item = store.search(("a",), filter={"n": 1})[0]
        store.put(("a",), "k", item.value | {"n": 2})
        assert store.update(("a",), "k", lambda value: {"n": value["n"] + 1}) == {"n": 3}
        assert store.list_namespaces(prefix=("a",)) == [("a",)]


def mcp(url: str) -> None:
    """Call a tool of the server, in this process, and hear of what it changed."""
    from mcp import Client

    from interlock.server.mcp.agents import opened
    from interlock.server.mcp.server import make_server

    async def call() -> None:
        async with opened(url) as agents, Client(make_server(agents)) as client:
            uri = "interlock://default/k"
            async with client.listen(resource_subscriptions=[uri]) as changes:
                answer: Any = await client.call_tool("create", {"key": "k", "value": 1})
                assert answer.structured_content["ok"], answer
                await anext(aiter(changes))
            assert (await client.read_resource(uri)).contents

    import interlock.server.mcp.server  # noqa: F401  # what HTTP needs is there

    asyncio.run(call())


def server(url: str) -> None:
    """Open a space through a service, and write to it."""
    import interlock

    command = [
        str(Path(sys.executable).parent / "interlock"),
        "serve",
        url,
        "--bind",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        try:
            address = service.stderr.readline().strip().removeprefix("serving at ")
            with interlock.open(address, agent="a") as space:
                assert space.create("k", 1).writer == "a"
        finally:
            service.terminate()


def chroma(url: str) -> None:
    """Store a vector in a collection in memory."""
    import chromadb

    from interlock.adapters.vectors import Contribution, upsert_chroma

    found = chromadb.EphemeralClient().create_collection("findings", embedding_function=None)
    ids = upsert_chroma(found, [Contribution([1.0, 0.0], "text")], agent="a")
    assert found.get(ids)["documents"] == ["text"]


def cipher(url: str) -> None:
    """Encrypt a value and decrypt it."""
    from interlock.cipher import SQLiteKeys, SubjectCipher

    with tempfile.TemporaryDirectory() as folder:
        ours = SubjectCipher(SQLiteKeys(f"{folder}/keys.db"), lambda key: key)
        assert ours.decrypt("k", ours.encrypt("k", b"1")) == b"1"


def oidc(url: str) -> None:
    """Take a JWT that a key of its issuer has signed, and refuse it for another audience."""
    import json
    import time

    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec
    from jwt.algorithms import ECAlgorithm

    from interlock.server.http.issuer import Issuer, Issuers
    from interlock.server.http.problem import Problem

    key = ec.generate_private_key(ec.SECP256R1())
    claims = {"iss": "i", "aud": "a", "sub": "planner", "interlock_role": "reader"}
    text = jwt.encode({**claims, "exp": time.time() + 60}, key, algorithm="ES256")
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "jwks.json"
        keys.write_text(json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(key.public_key()))]}))
        for audience in ("a", "b"):
            issuers = Issuers([Issuer(issuer="i", audience=audience, keys=str(keys))])
            try:
                found = asyncio.run(issuers.identity(text)).agent
            except Problem:
                found = None
            assert found == ("planner" if audience == "a" else None)


def qdrant(url: str) -> None:
    """Store a vector in a collection in memory."""
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    from interlock.adapters.vectors import Contribution, upsert_qdrant

    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config=VectorParams(size=2, distance=Distance.COSINE))
    ids = upsert_qdrant(client, "c", [Contribution([1.0, 0.0], "text")], agent="a")
    assert client.retrieve("c", ids)[0].payload["text"] == "text"  # type: ignore[index]  # it has one
    client.close()


def plot(url: str) -> None:
    """Draw a small simulation."""
    interlock = Path(sys.executable).parent / "interlock"
    drawn = Path(tempfile.mkdtemp()) / "drawn.svg"
    subprocess.run([interlock, "simulate", "--agents", "2", "--plot", drawn], check=True)
    assert "<svg" in drawn.read_text(encoding="utf-8")


def otel(url: str) -> None:
    """Trace with the API alone, which records nothing, and make a link."""
    import interlock
    from interlock.observe import otel

    otel.instrument()
    with interlock.open(url) as space:
        space.update("k", lambda value: 1)
        (entry,) = space.log(prefix="k")
    assert entry.trace is None
    assert otel.link(entry._replace(trace=f"00-{'1' * 32}-{'2' * 16}-01")) is not None


def prometheus(url: str) -> None:
    """Show what was counted."""
    from prometheus_client import CollectorRegistry, generate_latest

    import interlock
    from interlock.observe import prometheus

    registry = CollectorRegistry()
    prometheus.register(registry)
    with interlock.open(url, agent="a") as space:
        space.create("k", 1)
    assert b'interlock_commits_total{agent="a",space="default"} 1.0' in generate_latest(registry)


def schema(url: str) -> None:
    """Write under a rule with a schema."""
    import interlock

    rules = {"k": interlock.guarded(schema=list[int])}
    with interlock.open(url, rules=rules) as space:
        space.create("k", [1])
        try:
            space.update("k", lambda items: [*items, "x"])
        except interlock.Invalid as refused:
            if "$[1]" in str(refused):
                return
    raise SystemExit("not refused")


def a_store(url: str) -> None:
    """Write, read, lease and follow on a server, with both APIs."""
    import interlock

    async def again() -> None:
        async with interlock.open_async(url, "lower-bounds") as space:
            assert (await space.update("k", lambda n: n + 1)).value == 3
            async with space.lease("k", ttl=5) as lease:
                await lease.write(4)

    with interlock.open(url, "lower-bounds") as space:
        space.create("k", 1)
        assert space.update("k", lambda n: n + 1).value == 2
        assert [next(entries).version for entries in [space.watch(after=0)] * 2] == [1, 2]
        with space.transaction() as tx:
            tx.create("other", 1)
    asyncio.run(again())


def mongodb(url: str) -> None:
    """Ask for a document where no server is: the client, its errors and the guard fit together."""
    import pymongo

    import interlock
    from interlock import guards

    client = pymongo.MongoClient[dict[str, object]](
        "mongodb://127.0.0.1:1", serverSelectionTimeoutMS=10
    )
    try:
        guards.collection(client.db.bookings).read("k")
    except interlock.Unavailable:
        return
    raise AssertionError("there was a server")


def toml(url: str) -> None:
    """Write a TOML file through a guard."""
    import tempfile

    from interlock import guards

    with tempfile.TemporaryDirectory() as folder:
        guards.file(folder).create("a.toml", {"n": 1})
        assert guards.file(folder).read("a.toml").value == {"n": 1}


def verify(url: str) -> None:
    """Try the laws of a reducer."""
    from hypothesis import strategies as st

    import interlock
    from interlock.verify import laws

    assert laws(interlock.REDUCERS["counter"], st.integers())


def vectors(url: str) -> None:
    """Search items by meaning."""
    from interlock.adapters.langgraph import Store

    index: Any = {"dims": 2, "embed": lambda texts: [[1.0, len(each)] for each in texts]}
    with Store(url, index=index) as store:
        store.put(("a",), "k", {"n": 1})
        found = store.search(("a",), query="one")[0]
        assert found.score is not None
        assert found.score > 0.9


SMOKES: dict[str, Callable[[str], None]] = {
    "adk": adk,
    "agent-framework": agent_framework,
    "anthropic": anthropic,
    "autogen": autogen,
    "chroma": chroma,
    "cipher": cipher,
    "claude-agent": claude_agent,
    "crewai": crewai,
    "fastmcp": fastmcp,
    "langgraph": langgraph,
    "llama-index": llama_index,
    "mcp": mcp,
    "mongodb": mongodb,
    "oidc": oidc,
    "openai-agents": openai_agents,
    "otel": otel,
    "plot": plot,
    "postgres": a_store,
    "prometheus": prometheus,
    "pydantic-ai": pydantic_ai,
    "qdrant": qdrant,
    "redis": a_store,
    "schema": schema,
    "server": server,
    "strands": strands,
    "toml": toml,
    "vectors": vectors,
    "verify": verify,
}


BESIDE = {"vectors": "langgraph,vectors"}  # what an extra is of use with


def extras() -> list[str]:
    """Return the extras of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(set(project["optional-dependencies"]))


def tried(extra: str, folder: Path) -> bool:
    """Make the environment of an extra and use it; say whether that worked."""
    from tests.servers import postgres, redis

    python = folder / extra / "bin/python"
    with ExitStack() as stack:
        url = f"sqlite:///{folder / extra}.db"
        if extra in ("postgres", "redis"):
            home = folder / f"{extra}-server"
            home.mkdir()
            start = postgres.Postgres.start if extra == "postgres" else redis.Redis.start
            server: Any = start(home)
            stack.callback(server.stop)
            url = server.url()
        for command in (
            [UV, "venv", "--quiet", "--python", PYTHON, str(folder / extra)],
            [*PIP_INSTALL, "--python", str(python), f"{ROOT}[{BESIDE.get(extra, extra)}]"],
            [str(python), "-m", "tests.lower_bounds", "--smoke", extra, url],
        ):
            if subprocess.run(command, cwd=ROOT).returncode:
                return False
    return True


def main() -> int:
    """Try the extras that are named, or all; return the exit code."""
    if sys.argv[1:2] == ["--smoke"]:
        SMOKES[sys.argv[2]](sys.argv[3])
        return 0
    failed = []
    with tempfile.TemporaryDirectory(prefix="interlock-bounds-") as folder:
        for extra in sys.argv[1:] or extras():
            fits = tried(extra, Path(folder))
            print(
                f"{extra}: {'works' if fits else 'DOES NOT WORK'} at its lower bounds", flush=True
            )
            failed += [] if fits else [extra]
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
