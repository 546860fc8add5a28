"""One file, one name: a second name has a write-ahead log of its own, and commits are lost."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import interlock
from tests.facades import Facades


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one key, closed."""
    path = tmp_path / "team.db"
    with interlock.open(f"sqlite:///{path}") as space:
        space.create("k", 1)
    return path


@pytest.fixture
def store_url(store: Path) -> str:
    """The URL that the facades open."""
    return f"sqlite:///{store}"


def test_a_file_with_two_names_is_refused(facades: Facades, store: Path) -> None:
    other = store.with_name("other.db")
    os.link(store, other)
    for name in (store, other):
        with pytest.raises(interlock.IncompatibleStore, match="2 names"):
            facades.open(url=f"sqlite:///{name}")
    other.unlink()
    facades.open().create("one name again", 1)


def test_a_second_name_stops_an_open_space(facades: Facades, store: Path) -> None:
    space = facades.open()
    os.link(store, store.with_name("other.db"))
    uses: list[Callable[[], object]] = [lambda: space.create("new", 1), lambda: space.read("k")]
    for use in uses:
        with pytest.raises(interlock.IncompatibleStore, match="2 names"):
            use()
    store.with_name("other.db").unlink()
    assert not space.read("new").exists


def test_a_symbolic_link_is_the_same_store(facades: Facades, store: Path) -> None:
    link = store.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(store)
    first, second = facades.open(), facades.open(url=f"sqlite:///{link}")
    first.create("first", 1)
    second.create("second", 2)
    assert [r.value for r in first.read_many(["first", "second"]).values()] == [1, 2]


@pytest.mark.parametrize("change", ["moved", "replaced", "deleted"])
def test_a_file_that_is_not_there_any_more_takes_no_commit(
    facades: Facades, store: Path, change: str
) -> None:
    space = facades.open()
    copy = store.with_name("copy.db")
    shutil.copy(store, copy)
    if change == "moved":
        store.rename(store.with_name("moved.db"))
    elif change == "replaced":
        copy.replace(store)
    else:
        store.unlink()
    with pytest.raises(interlock.Unavailable, match="moved, replaced or deleted"):
        space.create("new", 1)
    with pytest.raises(interlock.Unavailable, match="moved, replaced or deleted"):
        space.read("k")


MOUNTED = """
import subprocess, sys, interlock
original, point = sys.argv[1:]
open(point, "w").close()
subprocess.run(["mount", "--bind", original, point], check=True)
try:
    interlock.open("sqlite:///" + point)
except interlock.IncompatibleStore as problem:
    print(problem)
interlock.open("sqlite:///" + original).close()
"""


def test_a_file_that_is_mounted_alone_is_refused(store: Path) -> None:
    """As `docker run -v team.db:/data/team.db` does; in a mount namespace of its own."""
    alone = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.fail("mounting is not permitted here, so this promise was NOT tested; allow unshare")
    answer = subprocess.run(
        [*alone, sys.executable, "-c", MOUNTED, store, store.with_name("point.db")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Mount its folder" in answer.stdout, answer
    assert answer.returncode == 0, answer


def modes(path: Path) -> set[int]:
    return {stat.S_IMODE(os.stat(f"{path}{end}").st_mode) for end in ("", "-wal", "-shm")}


def test_a_new_file_is_for_its_owner_alone(facades: Facades, tmp_path: Path) -> None:
    facades.open(url=f"sqlite:///{tmp_path / 'new.db'}").create("k", 1)
    assert modes(tmp_path / "new.db") == {0o600}
    facades.open(url=f"sqlite:///{tmp_path / 'shared.db'}?permissions=0660").create("k", 1)
    assert modes(tmp_path / "shared.db") == {0o660}
    (tmp_path / "link.db").symlink_to(tmp_path / "target.db")
    facades.open(url=f"sqlite:///{tmp_path / 'link.db'}").create("k", 1)
    assert modes(tmp_path / "target.db") == {0o600}


@pytest.mark.parametrize("permissions", ["0777", "0611", "4660", "0400", "rw", ""])
def test_permissions_that_no_store_can_have(
    facades: Facades, store: Path, permissions: str
) -> None:
    with pytest.raises(interlock.Invalid, match="permissions"):
        facades.open(url=f"sqlite:///{store}?permissions={permissions}")


def test_an_unknown_option_is_named_without_its_value() -> None:
    with pytest.raises(interlock.Invalid, match="unknown option: password") as refused:
        interlock.open("sqlite:///team.db?password=hunter2")
    assert "hunter2" not in str(refused.value)
