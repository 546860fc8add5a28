"""Many spaces of one store in one process: they share its connections."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = """
import asyncio, os, resource, sys, threading, interlock
from concurrent.futures import ThreadPoolExecutor
url, prefix = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

def opened():
    return len(os.listdir("/proc/self/fd"))

def name(number):
    return f"{prefix}-{number}"
"""
SYNC = """
before = opened()
spaces = [interlock.open(url, space=name(n), agent="a") for n in range(150)]
def use(space):
    space.create("k", 1)
    return space.read("k").value
with ThreadPoolExecutor(60) as threads:
    assert list(threads.map(use, spaces)) == [1] * 150
for space in spaces[1:]:
    space.close()
assert spaces[0].read("k").value == 1
try:
    spaces[1].read("k")
except interlock.Closed:
    spaces[0].close()
    print("left open:", opened() - before)
"""
ASYNC = """
async def use(space):
    await space.create("k", 1)
    return (await space.read("k")).value

async def main():
    spaces = [await interlock.open_async(url, space=name(n), agent="a") for n in range(150)]
    assert await asyncio.gather(*map(use, spaces)) == [1] * 150
    watching = [space.watch("new").__aiter__() for space in spaces[:40]]
    news = [asyncio.ensure_future(each.__anext__()) for each in watching]
    await asyncio.gather(*(space.create("new", 2) for space in spaces))
    assert [entry.value for entry in await asyncio.gather(*news)] == [2] * 40
    for each in watching:
        await each.aclose()
    for space in spaces:
        await space.close()

asyncio.run(asyncio.sleep(0))
before = opened()
asyncio.run(main())
print("left open:", opened() - before)
"""
FORKED = """
spaces = [interlock.open(url, space=name(n), agent="a") for n in range(20)]
for space in spaces:
    space.create("k", 1)
child = os.fork()
mine = [space.update("k", lambda n: n + 1).value for space in spaces]
again = interlock.open(url, space=name(0), agent="b")
again.create("child" if child == 0 else "parent", 1)
for space in [*spaces, again]:
    space.close()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
with interlock.open(url, space=name(0)) as space:
    assert space.read("k").value == 3
    assert set(space.scan("")) == {"k", "child", "parent"}
print("left open: 0")
"""


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'team.db'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.mark.parametrize("program", [SYNC, ASYNC, FORKED], ids=["sync", "async", "forked"])
def test_spaces_of_one_store_share_its_connections(url: str, program: str) -> None:
    """150 spaces in a process that may have 100 files open; the last one closes what was shared."""
    answer = subprocess.run(
        [sys.executable, "-c", PREAMBLE + program, url, f"many-{os.urandom(6).hex()}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == "left open: 0\n", answer.stdout + answer.stderr[-3000:]
