"""Copies from store to store by processes that are killed: they go on, and hold the same."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

import interlock
from interlock.cli import main

ENTRIES = 2500  # a page of the log is a thousand
COPIES = """
import sys, interlock
def stop(done, total):
    print(done, flush=True)
    sys.stdin.read()  # until it is killed
source, target, space = sys.argv[1:]
interlock.Store(source).copy(space, target, progress=stop)
"""
IMPORTS = """
import sys, interlock
def stop(done, total):
    print(done, flush=True)
    sys.stdin.read()
file, target, space = sys.argv[1:]
interlock.Store(target, create=True).load(open(file), space, progress=stop)
"""


def killed(script: str, *arguments: str) -> int:
    """Run a script until it says how far it is, kill it, and return that."""
    command = [sys.executable, "-c", script, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        done = int(process.stdout.readline())
        process.kill()
    return done


def digest(url: str, space: str) -> str:
    with interlock.Store(url) as store:
        *_, last = store.export(space)
    return str(json.loads(last)["end"]["digest"])


def run(*command: str) -> str:
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 0, told.output
    return told.stdout


@pytest.fixture
def source(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'from.db'}"
    rules = {"found/*": interlock.merged("append")}
    with interlock.open(url, space="all", agent="a", rules=rules, durability="off") as space:
        records = {f"key/{n}": space.create(f"key/{n}", n) for n in range(50)}
        for n in range(ENTRIES):
            key = f"key/{n % 50}"
            if n % 5:
                records[key] = space.write(records[key], {"n": n})
            else:
                space.append(f"found/{n % 3}", n)
        for key in ("key/7", "key/8"):
            space.delete(records[key])
        space.group("g", prefix="found/").take(20)
    return url


def test_copies_that_are_killed_go_on_and_hold_the_same(
    source: str, tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    name = f"copy-{uuid.uuid4().hex[:12]}"
    with interlock.Store(source) as store:
        store.rename("all", name)
    wanted = digest(source, name)
    end = f"sqlite:///{tmp_path / 'to.db'}"
    for url, target in ((source, postgres_url), (postgres_url, redis_url), (redis_url, end)):
        done = killed(COPIES, url, target, name)
        assert 0 < done < ENTRIES
        with pytest.raises(interlock.Unavailable, match="being imported"):
            interlock.open(target, space=name)
        told = run("copy", "--from", url, "--to", target, "--space", name, "--json")
        copied = json.loads(told)
        assert copied["entries"] == copied["position"] - done
        assert digest(target, name) == wanted
    for url in (postgres_url, redis_url):
        run("spaces", "drop", name, "--yes", "--store", url)


def test_an_import_that_is_killed_goes_on(source: str, tmp_path: Path) -> None:
    file, target = tmp_path / "all.jsonl", f"sqlite:///{tmp_path / 'to.db'}"
    file.write_text(run("export", source, "--space", "all"), "utf-8")
    assert killed(IMPORTS, str(file), target, "all") == 1000
    told = json.loads(run("import", target, "--file", str(file), "--json"))
    assert told["entries"] == told["position"] - 1000
    assert digest(target, "all") == digest(source, "all")
