"""Documents and files that are refused or passed by: one of them stops no other."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.core import write as core_write
from interlock.files import context, operations, sync
from tests.files.test_contract import STORES, files, others, root, store_url

__all__ = ["STORES", "files", "others", "root", "store_url"]  # fixtures

GOOD = {"text": "good", "mode": 0o644}
LONG = "x" * 300
NO_DOCUMENTS = {
    "text": "just text",
    "number": 7,
    "null": None,
    "large": {"text": "", "mode": 2**70},
    "setuid": {"text": "#!/bin/sh", "mode": 0o6755},
    "setgid": {"text": "#!/bin/sh", "mode": 0o2755},
    "sticky": {"text": "", "mode": 0o1777},
    "true": {"text": "", "mode": True},
    "both": {"text": "", "base64": "", "mode": 0o644},
    "bytes": {"base64": "no base64!", "mode": 0o644},
    "half": {"text": ""},
}


def test_what_is_no_document_is_refused_at_the_write(space: Any, files: Any) -> None:
    for path, value in NO_DOCUMENTS.items():
        with pytest.raises(interlock.Invalid, match="needs a document"):
            space.create(f"files/{path}", value)
    with pytest.raises(interlock.Invalid, match=r"the name 'xxx.* has 300 bytes"):
        space.create(f"files/{LONG}", GOOD)
    made = space.create("files/good", GOOD)
    with pytest.raises(interlock.Invalid, match="needs a document"):
        space.update("files/good", lambda value: {**value, "mode": 0o4755})
    with pytest.raises(interlock.Invalid, match="needs a document"), space.transaction() as tx:
        tx.write(made, "text")
    with pytest.raises(interlock.Invalid, match="300 bytes"):
        files.read(LONG)
    assert files.paths() == ["good"]


def test_a_merged_key_is_no_document(space: Any) -> None:
    space.apply_rules({"files/**": interlock.merged("append")})
    with pytest.raises(interlock.Invalid, match="needs a document"):
        space.append("files/log", "line")


def test_a_file_is_not_made_where_another_document_has_a_folder(files: Any) -> None:
    files.publish({"a": "1", "folder/b": "1"})
    writes: list[Callable[[], Any]] = [
        lambda: files.write(files.read("a/below"), ""),
        lambda: files.update("a/deep/below", lambda text: "x"),
        lambda: files.publish({"a/below": ""}),
        lambda: files.publish({"new": "", "new/below": ""}),
    ]
    for write in writes:
        with pytest.raises(interlock.Invalid, match=r"needs a folder '(a|new)', but that is a doc"):
            write()
    with pytest.raises(interlock.Invalid, match="'folder/b' needs a folder 'folder'"):
        files.write(files.read("folder"), "")
    assert files.paths() == ["a", "folder/b"]
    files.delete(files.read("a"))
    assert files.write(files.read("a/below"), "now").exists


def test_no_writer_makes_a_document_where_another_needs_a_folder(space: Any) -> None:
    key, below, beside = "files/a", "files/a/b/c", "files/a.md"
    space.create(key, GOOD)
    space.create(beside, GOOD)
    absent = space.read(below)
    writes: list[Callable[[], Any]] = [
        lambda: space.create(below, GOOD),
        lambda: space.write(absent, GOOD),
        lambda: space.update(below, lambda value: GOOD),
        lambda: space.transact(lambda tx: tx.create(below, GOOD)),
        lambda: space.transact(lambda tx: tx.write(absent, GOOD)),
        lambda: space.transact(lambda tx: (tx.read(key), tx.create(below, GOOD))),
        lambda: space.transact(lambda tx: (tx.scan("files/"), tx.create(below, GOOD))),
        lambda: space.transact(
            lambda tx: (tx.create("files/n", GOOD), tx.create("files/n/x", GOOD))
        ),
    ]
    for write in writes:
        with pytest.raises(
            interlock.Invalid, match=r"needs a folder '(a|n)', but that is a document"
        ):
            write()
    space.transact(lambda tx: (tx.delete(tx.read(key)), tx.create(below, GOOD)))
    with pytest.raises(interlock.Invalid, match="'a/b/c' needs a folder 'a'"):
        space.write(space.read(key), GOOD)
    with pytest.raises(interlock.Invalid, match="'a/b/c' needs a folder 'a/b'"):
        space.create("files/a/b", GOOD)
    space.transact(lambda tx: (tx.create(key, GOOD), tx.delete(tx.read(below))))
    assert sorted(space.scan("files/")) == [key, beside]
    assert space.update(key, lambda value: GOOD, touch=True).version == 4
    assert [entry.reads for entry in space.log()][:2] == [None, None]  # of single writes


RACES: dict[str, Callable[[Any, Path], Any]] = {
    "write": lambda files, root: files.write(files.read("a/x"), "mine"),
    "update": lambda files, root: files.update("a/x", lambda text: "mine"),
    "publish": lambda files, root: files.publish({"a/x": "mine", "b": "mine"}),
    "adopt": lambda files, root: files.adopt("new/x"),
    "again": lambda files, root: files.write(files.read("old/x"), "mine"),
    "above": lambda files, root: files.write(files.read("below"), "mine"),
}
TAKEN = {"adopt": "new", "again": "old", "above": "below/x"}


@pytest.mark.parametrize("race", RACES)
def test_a_place_that_is_taken_after_it_was_checked_is_refused(
    files: Any,
    facades: Any,
    root: Path,
    tmp_path: Path,
    race: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = facades.peer("other").files(tmp_path / "other disk")
    files.delete(files.write(files.read("old/x"), "deleted"))
    (root / "new").mkdir()
    (root / "new/x").write_text("mine")
    taken = TAKEN.get(race, "a")
    to_take = [taken]

    def check_place(*arguments: Any) -> Any:
        freed = yield from context.check_place(*arguments)
        if to_take:
            others.write(others.read(to_take.pop()), "theirs")
        return freed

    for module in (operations, sync):
        monkeypatch.setattr(module, "check_place", check_place)
    with pytest.raises(interlock.Invalid, match=r"needs a folder '.*', but that is a document"):
        RACES[race](files, root)
    assert others.paths() == [taken]
    assert others.status() == ()


def test_a_transaction_may_put_a_document_in_place_of_a_folder_and_the_reverse(
    space: Any, files: Any, root: Path, tmp_path: Path
) -> None:
    mirror = space.files(tmp_path / "mirror")
    files.publish({"zz": "1"})
    mirror.sync()
    with files.transaction() as tx:
        tx.create("zz/a", "2")
        tx.delete(tx.read("zz"))
    assert {each.path: each.state for each in tx.written} == {
        "zz": "published",
        "zz/a": "published",
    }
    with pytest.raises(interlock.Invalid, match="needs a folder 'zz'"), files.transaction() as tx:
        tx.create("zz", "3")
    with files.transaction() as tx:
        tx.delete(tx.read("zz/a"))
        tx.create("zz", "4")
    assert (root / "zz").read_text() == "4"
    mirror.sync()
    assert (tmp_path / "mirror/zz").read_text() == "4"
    assert files.status() == mirror.status() == ()


def test_what_is_there_already_is_passed_by_and_reported(
    space: Any, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.publish({"a": "1", "blocked/b": "1", "z": "1"})
    with monkeypatch.context() as patched:  # as an older version, or a program of one's own, wrote
        patched.setattr(core_write, "check_document", lambda key, value: None)
        patched.setattr(core_write, "expected_place", lambda key: ((), ()))
        for path, value in NO_DOCUMENTS.items():
            space.create(f"files/bad/{path}", value)
        for path in (LONG, ".git/hooks/post-merge", "clash", "clash/below"):
            space.create(f"files/{path}", GOOD)
    disk = tmp_path / "mirror"
    disk.mkdir()
    (disk / "blocked").write_text("a file of this disk")
    mirror = space.files(disk)
    assert mirror.read("a").text == "1"
    assert mirror.write(mirror.read("z"), "2").state == "published"
    assert mirror.update("new", lambda text: "3").state == "published"
    with pytest.raises(interlock.Unpublished, match=r"'blocked/b'|'clash/below'"):
        mirror.sync()
    found = {each.path: each for each in mirror.status()}
    assert {path for path, each in found.items() if each.state == "refused"} == {
        *(f"bad/{path}" for path in NO_DOCUMENTS),
        *(LONG, ".git/hooks/post-merge", "blocked/b", "clash/below"),
    }
    assert "2**70" not in found["bad/large"].reason
    assert "permissions" in found["bad/setuid"].reason
    assert "hidden=True" in found[".git/hooks/post-merge"].reason
    assert "link or a file" in found["blocked/b"].reason
    shown = {path for path in os.listdir(disk) if path != ".interlock"}
    assert shown == {"a", "blocked", "clash", "new", "z"}
    assert {each.path: each.state for each in islice(mirror.follow(), 2)} == {
        "blocked/b": "unpublished",
        "clash/below": "unpublished",
    }
    with pytest.raises(interlock.Corrupt, match="needs a document"):
        mirror.read("bad/number")


def test_hidden_paths_need_an_option(space: Any, files: Any, root: Path) -> None:
    for path in (".git/hooks/post-merge", ".envrc", "a/.ssh/authorized_keys", ".interlock/x"):
        with pytest.raises(interlock.Invalid, match=r"hidden|reserved"):
            files.read(path)
    hidden = space.files(root, hidden=True)
    hidden.update(".github/workflows/test.yml", lambda text: "on: push\n")
    assert (root / ".github/workflows/test.yml").read_text() == "on: push\n"
    with pytest.raises(interlock.Invalid, match="reserved"):
        hidden.read(".interlock/x")
    assert files.paths() == []
    assert hidden.paths() == [".github/workflows/test.yml"]


def test_special_permissions_are_never_taken_over(files: Any, root: Path) -> None:
    files.update("run.sh", lambda text: "1")
    (root / "run.sh").chmod(0o6755)
    files.update("run.sh", lambda text: "2")
    assert stat.S_IMODE((root / "run.sh").stat().st_mode) == 0o755
    (root / "tool.sh").write_text("1")
    (root / "tool.sh").chmod(0o6755)
    assert files.adopt("tool.sh").mode == 0o755


@pytest.mark.parametrize("own", [".interlock", ".interlock/saved"])
def test_a_link_in_place_of_the_librarys_own_folder_is_not_followed(
    space: Any, root: Path, tmp_path: Path, own: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / own).parent.mkdir(parents=True, exist_ok=True)
    (root / own).symlink_to(elsewhere)
    found = space.files(root)
    refused = (interlock.Unavailable, interlock.Unpublished)
    with pytest.raises(refused, match="link or a file"):  # noqa: PT012  # whichever comes first
        found.update("plan.md", lambda text: "1")
        (root / "plan.md").write_text("edited")
        found.discard("plan.md")
    assert os.listdir(elsewhere) == []


def test_the_policy_adopt_passes_by_what_it_must_not_or_cannot_commit(
    space: Any, root: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    found = space.files(root, outside="adopt")
    found.update("edited", lambda text: "1")
    os.link(secret, root / "linked")
    (root / "edited").unlink()
    os.link(secret, root / "edited")
    (root / "big").write_text("x" * 2**20)
    (root / "good").write_text("good")
    states = {each.path: each.state for each in found.sync()}
    assert states == {"edited": "edited", "big": "edited", "good": "published"}
    assert found.read("good").text == "good"
    assert found.read("edited").text == "1"
    for path in ("linked", "edited"):
        with pytest.raises(interlock.Invalid, match="is a hard link"):
            found.adopt(path)
    refused = {each.path: each.reason for each in found.status() if each.state == "refused"}
    assert refused.keys() == {"linked"}
    assert all("secret" not in str(entry.value) for entry in space.log())


def test_a_folder_takes_the_place_of_a_deleted_document_and_stays(
    space: Any, files: Any, root: Path, tmp_path: Path
) -> None:
    mirror = space.files(tmp_path / "mirror")
    files.update("plan", lambda text: "1")
    mirror.sync()
    files.delete(files.read("plan"))
    assert mirror.write(mirror.read("plan/a"), "2").state == "published"
    files.sync()
    for found, disk in ((files, root), (mirror, tmp_path / "mirror")):
        assert found.status() == found.sync() == ()
        found.rebuild()
        found.discard("plan")
        assert (disk / "plan" / "a").read_text() == "2"
        assert found.status() == ()
    with pytest.raises(interlock.Invalid, match="needs a folder 'plan'"):
        files.write(files.read("plan"), "3")
    files.delete(files.read("plan/a"))
    files.write(files.read("plan"), "4")
    mirror.sync()
    for found, disk in ((files, root), (mirror, tmp_path / "mirror")):
        assert (disk / "plan").read_text() == "4"
        assert found.status() == found.sync() == ()


def test_a_folder_that_was_set_aside_is_listed_by_its_documents_path(
    files: Any, root: Path
) -> None:
    files.update("notes", lambda text: "1")
    (root / "notes").unlink()
    (root / "notes").mkdir()
    (root / "notes" / "own.txt").write_text("mine")
    files.discard("notes")
    (saved,) = files.status()
    assert (saved.path, saved.state) == ("notes/own.txt", "saved")
    assert Path(saved.where).read_text() == "mine"
