"""`--cipher`: commands read and write encrypted values, and without it they are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main

SECRET = "alice@example.com"
MODULE = """
from interlock.cipher import SQLiteKeys, SubjectCipher
none, number = None, 3
cipher = SubjectCipher(SQLiteKeys({path!r}), lambda key: key.split("/")[0])
def program(run): return run.input
async def later(run): return run.input
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with a cipher, by another name for each test."""
    name = f"clinic_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(path=str(tmp_path / "keys.db")), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def call(module: str, url: str) -> Callable[..., Result]:
    """Run a command; its cipher comes from the environment, or (`blind`) there is none."""

    def run(*arguments: str, blind: bool = False) -> Result:
        cipher = None if blind else f"{module}:cipher"
        environment = {"INTERLOCK_STORE": url, "INTERLOCK_CIPHER": cipher}
        return CliRunner().invoke(main, list(arguments), env=environment)

    return run


def test_commands_read_and_write_encrypted_values(call: Callable[..., Result]) -> None:
    assert call("put", "alice/1", json.dumps({"mail": SECRET})).exit_code == 0
    assert call("patch", "alice/1", '{"n": 1}').exit_code == 0
    assert json.loads(call("get", "alice/1").stdout) == {"mail": SECRET, "n": 1}
    assert SECRET in call("history", "alice/1", "--json").stdout
    assert SECRET not in call("export").stdout
    for command in (["get", "alice/1"], ["log"], ["patch", "alice/1", '{"n": 2}']):
        told = call(*command, blind=True)
        assert (told.exit_code, "is encrypted" in told.stderr) == (2, True)
    done = call("erase", "--containing", SECRET, "--yes", "--json")
    assert json.loads(done.stdout)["keys"] == ["alice/1"]


@pytest.mark.parametrize("program", ["program", "later"])
def test_a_worker_runs_with_the_cipher(
    call: Callable[..., Result], module: str, program: str
) -> None:
    made = call("runs", "start", "r1", program, "--input", json.dumps(SECRET))
    assert made.exit_code == 0, made.output
    told = call("worker", f"{module}:{program}", "--once")
    assert told.exit_code == 0, told.output
    assert SECRET in call("runs", "show", "r1", "--json").stdout
    assert call("runs", "show", "r1", blind=True).exit_code == 2


@pytest.mark.parametrize(
    "reference",
    ["clinic", ":cipher", "no_such_module:cipher", "{}:missing", "{}:none", "{}:number"],
)
def test_what_is_no_cipher_is_refused(
    url: str, module: str, tmp_path: Path, reference: str
) -> None:
    options = ["--store", url, "--cipher", reference.format(module)]
    told = CliRunner().invoke(main, ["put", "alice/1", "1", *options])
    assert (told.exit_code, told.stdout) == (2, "")
    assert not (tmp_path / "store.db").exists()


def test_an_encrypted_space_is_copied_with_its_history(
    call: Callable[..., Result], module: str, url: str, tmp_path: Path
) -> None:
    call("put", "alice/1", json.dumps({"mail": SECRET}))
    call("update-fields", "alice/1", "--set", 'mail="again"')
    there = f"sqlite:///{tmp_path / 'there.db'}"
    assert call("copy", "--to", there, blind=True).exit_code == 0
    assert SECRET.encode() not in (tmp_path / "there.db").read_bytes()
    told: Any = call("history", "alice/1", "--store", there, "--json").stdout.splitlines()
    assert [json.loads(line)["value"] for line in told] == [{"mail": SECRET}, {"mail": "again"}]
    with interlock.Store(url) as one, interlock.Store(there) as other:
        assert [*one.export("default")][1:] == [*other.export("default")][1:]
