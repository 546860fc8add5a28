"""Shared documents and their files, on every backend and with both APIs."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.files import disk
from tests.facades import Facades, elsewhere

STORES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.slow),
    pytest.param("redis", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'store.db'}"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def files(space: Any, root: Path) -> Any:
    """The files of one agent."""
    return space.files(root)


@pytest.fixture
def others(facades: Facades, files: Any, root: Path) -> interlock.Files:
    """The files of another agent on the same disk."""
    return facades.peer("other").files(root)


def test_what_is_written_is_in_the_space_and_on_the_disk(
    space: Any, files: Any, root: Path
) -> None:
    absent = files.read("plans/a.md")
    assert (absent.text, absent.data, absent.version, absent.exists) == ("", None, 0, False)
    made = files.write(absent, "first\r\nsecond\n")
    assert (root / "plans" / "a.md").read_bytes() == b"first\r\nsecond\n"
    assert (made.text, made.version, made.state) == ("first\r\nsecond\n", 1, "published")
    assert made.writer == space.agent
    assert made.at == made.record.at
    assert space.read("files/plans/a.md").value == {"text": "first\r\nsecond\n", "mode": 0o644}
    assert files.read("plans/a.md").record == made.record
    assert files.paths() == ["plans/a.md"]
    assert files.status() == ()


def test_of_two_who_read_the_same_one_is_refused_with_the_fresh_document(
    files: Any, others: interlock.Files, root: Path
) -> None:
    mine, theirs = files.read("plan.md"), others.read("plan.md")
    files.write(mine, "mine")
    with pytest.raises(interlock.FileConflict) as refused:
        others.write(theirs, "theirs")
    assert isinstance(refused.value, interlock.Conflict)
    assert refused.value.document.text == "mine"
    assert (root / "plan.md").read_text() == "mine"
    assert others.write(refused.value.document, "both").text == "both"
    assert (root / "plan.md").read_text() == "both"


def test_an_update_thinks_again(files: Any, others: interlock.Files, root: Path) -> None:
    thoughts = []

    def think(text: str) -> str:
        thoughts.append(text)
        if len(thoughts) == 1:
            elsewhere(lambda: others.write(others.read("plan.md"), "theirs\n"))
        return text + "mine\n"

    with pytest.raises(interlock.Invalid, match="being updated"):
        files.update("other", lambda text: files.read("other").text)
    assert files.update("plan.md", think, turns="never").text == "theirs\nmine\n"
    assert thoughts == ["", "theirs\n"]
    assert (root / "plan.md").read_text() == "theirs\nmine\n"


def test_a_merge_keeps_both_changes_or_refuses(
    space: Any, others: interlock.Files, root: Path
) -> None:
    files = space.files(root, merge=True)
    base = files.write(files.read("plan.md"), "a\nb\nc\nd\n")
    others.write(others.read("plan.md"), "A\nb\nc\nd\n")
    merged = files.write(base, "a\nb\nc\nD\n")
    assert (merged.text, merged.version) == ("A\nb\nc\nD\n", 3)
    assert (root / "plan.md").read_text() == "A\nb\nc\nD\n"
    with pytest.raises(interlock.FileConflict):
        files.write(base, "x\nb\nc\nd\n")
    data = files.write(files.read("memory.json"), '{\n  "a": 1,\n  "b": 1\n}\n')
    others.write(others.read("memory.json"), '{"a": 2, "b": 1}')
    assert files.write(data, '{\n  "a": 1,\n  "b": 2\n}\n').text == '{\n  "a": 2,\n  "b": 2\n}\n'


def test_several_are_published_in_one_commit_or_not_at_all(
    space: Any, files: Any, others: interlock.Files, root: Path
) -> None:
    plan = files.write(files.read("plan.md"), "plan")
    before = space.position()
    made = files.publish({plan: "plan 2", "memory.json": "{}", "bin": b"\xff\x00"})
    assert [document.path for document in made] == ["bin", "memory.json", "plan.md"]
    assert len({entry.op_id for entry in space.log(after=before)}) == 1
    assert (root / "bin").read_bytes() == b"\xff\x00"
    assert files.read("bin").data == b"\xff\x00"
    others.write(others.read("plan.md"), "theirs")
    with pytest.raises(interlock.FileConflict) as refused:
        files.publish({made[2]: "plan 3", made[1]: "[]"})
    assert refused.value.document.text == "theirs"
    assert (root / "memory.json").read_text() == "{}"
    with pytest.raises(interlock.FileConflict):
        files.publish({"plan.md": "new"})
    with pytest.raises(interlock.Invalid, match="no UTF-8"):
        print(files.read("bin").text)


def test_a_transaction_checks_what_it_read(files: Any, others: interlock.Files, root: Path) -> None:
    files.publish({"a": "1", "b": "1"})
    with files.transaction() as tx:
        a, b = tx.read("a"), tx.read("b")
        tx.write(a, a.text + b.text)
        assert tx.read("a").text == "11"
        tx.create("c", "new", mode=0o755)
        tx.delete(b)
    assert {document.path: document.data for document in tx.written} == {
        "a": b"11",
        "b": None,
        "c": b"new",
    }
    assert sorted(os.listdir(root)) == [".interlock", "a", "c"]
    stale = files.transaction()
    with pytest.raises(interlock.FileConflict), stale as tx:  # noqa: PT012  # one block, as used
        a, c = tx.read("a"), tx.read("c")
        others.write(others.read("c"), "theirs")
        tx.write(a, c.text)
    assert (root / "a").read_text() == "11"
    left = files.transaction()
    with pytest.raises(KeyError), left as tx:  # noqa: PT012  # one block, as used
        tx.create("d", "")
        raise KeyError
    assert files.paths() == ["a", "c"]


def test_a_deleted_document_has_no_file_and_may_come_back(files: Any, root: Path) -> None:
    first = files.write(files.read("plan.md"), "first")
    gone = files.delete(first)
    assert (gone.exists, gone.version, os.listdir(root)) == (False, 2, [".interlock"])
    with pytest.raises(interlock.FileConflict):
        files.write(first, "late")
    assert files.write(gone, "again").version == 3
    assert (root / "plan.md").read_text() == "again"


def test_permissions_are_kept(files: Any, root: Path) -> None:
    def mode(name: str) -> int:
        return stat.S_IMODE((root / name).stat().st_mode)

    made = files.write(files.read("run.sh"), "1", mode=0o755)
    assert mode("run.sh") == 0o755
    made = files.write(made, "2")
    assert (mode("run.sh"), made.mode) == (0o755, 0o755)
    (root / "run.sh").chmod(0o700)
    made = files.write(made, "3")
    assert (mode("run.sh"), made.mode) == (0o700, 0o755), "what was set on this disk stays"
    files.write(made, "4", mode=0o600)
    assert mode("run.sh") == 0o600
    with pytest.raises(interlock.Invalid, match="permissions"):
        files.write(files.read("run.sh"), "5", mode=0o4755)


def test_another_disk_follows(
    facades: Facades, space: Any, files: Any, root: Path, tmp_path: Path
) -> None:
    files.publish({"a": "1", "b": "1"})
    mirror = space.files(tmp_path / "mirror")
    following = iter(mirror.follow())
    seen = {next(following).path for _ in range(2)}
    assert seen == {"a", "b"}
    files.write(files.read("a"), "2")
    assert next(following).text == "2"
    assert (tmp_path / "mirror" / "a").read_text() == "2"
    files.delete(files.read("b"))
    assert next(following).exists is False
    assert sorted(os.listdir(tmp_path / "mirror")) == [".interlock", "a"]
    files.publish({"c": "while nobody follows"})
    files.delete(files.read("a"))
    later = facades.peer("later").files(tmp_path / "mirror")
    assert [document.path for document in later.sync()] == ["a", "c"]
    assert sorted(os.listdir(tmp_path / "mirror")) == [".interlock", "c"]


def test_a_disk_that_was_lost_is_rebuilt(files: Any, root: Path) -> None:
    files.publish({"a": "1", "deep/b": "2"})
    (root / "a").unlink()
    assert [(each.path, each.state) for each in files.status()] == [("a", "missing")]
    assert files.read("a").state == "published"
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert {document.path for document in files.rebuild()} == {"a", "deep/b"}
    assert (root / "deep" / "b").read_text() == "2"
    assert files.status() == ()


def test_what_cannot_be_a_document_is_refused(space: Any, files: Any, root: Path) -> None:
    for path in (
        *("../a", "/etc/passwd", "a/../b", "a//b", "", "a/", ".interlock/x", "a*", " a"),
        *(".Interlock/x", "e\u0301.md", 7, "x" * 600),
    ):
        with pytest.raises(interlock.Invalid):
            files.read(path)
    with pytest.raises(interlock.Invalid, match="is not among 'plans/\\*\\*'"):
        space.files(root, "plans/**").read("other/a.md")
    for pattern, outside in (("**/a", "refuse"), ("**", "overwrite")):
        with pytest.raises(interlock.Invalid):
            space.files(root, pattern, outside=outside)
    with pytest.raises(interlock.Invalid, match="the limit is 1,048,576"):
        files.write(files.read("big"), "x" * 2**20)
    assert not (root / "big").exists()
    for content in ("\ud800", 7):
        with pytest.raises(interlock.Invalid):
            files.write(files.read("a"), content)


def test_no_link_leads_out_of_the_folder(files: Any, root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secret").write_text("secret")
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "file").symlink_to(tmp_path / "secret")
    with pytest.raises(interlock.Unavailable, match="a folder on the way is a link"):
        files.update("folder/a", lambda text: "escaped")
    with pytest.raises(interlock.FileEdited) as refused:
        files.update("file", lambda text: "escaped")
    assert refused.value.outside is None
    with pytest.raises(interlock.Invalid, match="no plain file"):
        files.adopt("file")
    assert os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "secret").read_text() == "secret"
    assert files.paths() == []


def test_a_full_disk_is_told_and_the_write_stands(
    files: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.publish({"a": "1"})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "write", full)
        with pytest.raises(interlock.Unpublished, match=r"'a' version 2 .*No space left") as told:
            files.update("a", lambda text: text + "2")
        assert told.value.document is not None
        assert told.value.document.text == "12"
        assert (root / "a").read_text() == "1"
        assert files.read("a").state == "unpublished"
    assert [(each.path, each.state) for each in files.status()] == [("a", "behind")]
    files.sync()
    assert (root / "a").read_text() == "12"


def test_update_of_a_file_refuses_none_and_deletes_with_the_sentinel(
    files: Any, root: Path
) -> None:
    files.update("plan.md", lambda text: "one\n")
    with pytest.raises(interlock.Invalid, match="is a return missing"):
        files.update("plan.md", lambda text: None)
    assert (root / "plan.md").read_text() == files.read("plan.md").text == "one\n"
    assert not files.update("plan.md", lambda text: interlock.DELETE).exists
    assert not (root / "plan.md").exists()


def test_an_asyncio_transaction_over_files_refuses_a_change_that_was_not_awaited(
    facades: Facades, root: Path
) -> None:
    async def check() -> None:
        async with await facades.open_async() as space:
            files = space.files(root)
            with pytest.raises(interlock.Invalid, match=r"create\(\) was not awaited"):  # noqa: PT012
                async with files.transaction() as tx:
                    await tx.create("a.md", "a")
                    tx.create("b.md", "b")  # type: ignore[unused-coroutine]  # the mistake
            assert await files.paths() == []
            async with files.transaction() as tx:
                await tx.create("a.md", "a")
            assert await files.paths() == ["a.md"]

    facades.run(check())
