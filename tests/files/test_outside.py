"""Files that are edited around the space; and how texts are merged."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import interlock
from interlock.files import disk
from interlock.files.merge import merged, merged_text


@pytest.fixture
def space(tmp_path: Path) -> Iterator[interlock.Space]:
    with interlock.open(f"sqlite:///{tmp_path / 'store.db'}", agent="us") as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def files(space: interlock.Space, root: Path) -> interlock.Files:
    """Files with one document, whose file a person has edited."""
    found = space.files(root)
    found.write(found.read("plan.md"), "a\nb\nc\n")
    (root / "plan.md").write_text("a\nb\nperson\n")
    return found


def test_nothing_is_written_over_an_edit(files: interlock.Files, root: Path) -> None:
    document = files.read("plan.md")
    assert (document.text, document.edited) == ("a\nb\nc\n", True)
    for write in (
        lambda: files.write(document, "mine"),
        lambda: files.update("plan.md", lambda text: "mine"),
        lambda: files.delete(document),
        lambda: files.publish({document: "mine", "other": "mine"}),
    ):
        with pytest.raises(interlock.FileEdited, match="Commit the edit with adopt") as refused:
            write()
        assert refused.value.outside == b"a\nb\nperson\n"
        assert refused.value.document.version == 1
    assert files.sync()[0].edited
    assert (root / "plan.md").read_text() == "a\nb\nperson\n"
    assert files.paths() == ["plan.md"]


def test_a_reader_that_sleeps_while_many_versions_come_takes_none_for_an_edit(
    space: interlock.Space, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = space.files(root), space.files(root)
    ours.update("plan.md", lambda _: "first")
    look = disk.look

    def sleep_after_look(name: str, folder: int | None = None) -> disk.Found:
        found = look(name, folder)
        monkeypatch.setattr(disk, "look", look)
        for number in range(30):
            theirs.write(theirs.read("plan.md"), f"version {number}")
        return found

    theirs.update("plan.md", lambda _: "seen by the reader, noted by nobody")
    monkeypatch.setattr(disk, "look", sleep_after_look)
    assert ours.update("plan.md", lambda text: f"{text}, and ours").text == "version 29, and ours"
    assert ours.status() == ()


def test_the_fence_of_what_is_in_place_is_kept_however_many_are_above_it(
    space: interlock.Space, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = space.files(root)
    files.update("plan.md", lambda _: "first")
    exchange = disk.exchange

    def announce_after_exchange(source: str, folder: int, name: str) -> None:
        exchange(source, folder, name)
        for version in range(3, 40):  # by writers that were stopped just then
            disk.mark(f"{Path(source).parent}/fence.{version}.{version}.644.0")

    monkeypatch.setattr(disk, "exchange", announce_after_exchange)
    files.update("plan.md", lambda _: "second")
    assert files.status() == ()


def test_an_edit_is_adopted_as_a_commit(
    space: interlock.Space, files: interlock.Files, root: Path
) -> None:
    (root / "plan.md").chmod(0o700)
    adopted = files.adopt("plan.md")
    assert (adopted.text, adopted.version, adopted.mode) == ("a\nb\nperson\n", 2, 0o700)
    assert files.status() == ()
    assert files.adopt("plan.md").version == 2, "there is nothing more to adopt"
    assert space.read("files/plan.md").version == 2
    (root / "plan.md").unlink()
    assert not files.adopt("plan.md").exists


def elsewhere(space: interlock.Space, tmp_path: Path, text: str) -> None:
    """Write the document as somebody on another host does."""
    space.files(tmp_path / "elsewhere").update("plan.md", lambda _: text)


def test_an_edit_of_an_older_version_is_merged_or_refused(
    space: interlock.Space, files: interlock.Files, root: Path, tmp_path: Path
) -> None:
    elsewhere(space, tmp_path, "A\nb\nc\n")
    assert files.read("plan.md").edited
    with pytest.raises(interlock.FileEdited):
        files.adopt("plan.md")
    merging = space.files(root, merge=True)
    assert merging.adopt("plan.md").text == "A\nb\nperson\n"
    assert (root / "plan.md").read_text() == "A\nb\nperson\n"
    assert files.status() == (), "what was merged is not kept once more"
    (root / "plan.md").write_text("A\nb\nmine\n")
    elsewhere(space, tmp_path, "A\nb\ntheirs\n")
    with pytest.raises(interlock.FileEdited) as refused:
        merging.adopt("plan.md")
    assert (root / "plan.md").read_text() == "A\nb\nmine\n"
    assert files.adopt("plan.md", over=refused.value.document).text == "A\nb\nmine\n"
    assert files.status() == ()


def test_an_edit_is_set_aside(files: interlock.Files, root: Path) -> None:
    assert files.discard("plan.md").state == "published"
    assert (root / "plan.md").read_text() == "a\nb\nc\n"
    (saved,) = files.status()
    assert (saved.path, saved.state) == ("plan.md", "saved")
    assert Path(saved.where).read_text() == "a\nb\nperson\n"
    with pytest.raises(interlock.Invalid, match="not in the space"):
        files.discard("never")


def test_with_the_policy_adopt_edits_and_new_files_are_committed(
    space: interlock.Space, files: interlock.Files, root: Path, tmp_path: Path
) -> None:
    (root / "new.md").write_text("new")
    (root / ".hidden").write_text("no document")
    adopting = space.files(root, outside="adopt", merge=True)
    assert adopting.read("plan.md").text == "a\nb\nperson\n"
    assert adopting.paths() == ["new.md", "plan.md"]
    (root / "plan.md").write_text("a\nb\nagain\n")
    assert adopting.update("plan.md", lambda text: text + "ours\n").text == "a\nb\nagain\nours\n"
    document = adopting.read("plan.md")
    (root / "plan.md").write_text("A\nb\nagain\nours\n")
    assert adopting.write(document, "a\nb\nagain\nOURS\n").text == "A\nb\nagain\nOURS\n"
    (root / "plan.md").write_text("clash\n")
    elsewhere(space, tmp_path, "with this\n")
    assert adopting.read("plan.md").edited
    assert (root / "plan.md").read_text() == "clash\n"


def test_a_file_that_was_there_before_is_not_overwritten(
    space: interlock.Space, root: Path, tmp_path: Path
) -> None:
    elsewhere(space, tmp_path, "from the space")
    root.mkdir()
    (root / "plan.md").write_text("from somewhere")
    files = space.files(root)
    assert files.read("plan.md").edited
    with pytest.raises(interlock.FileEdited, match="this space did not publish"):
        files.update("plan.md", lambda text: "x")
    (root / "plan.md").write_text("from the space")
    assert files.read("plan.md").state == "published"
    assert files.status() == ()


def test_going_back_to_an_older_text_is_an_edit(files: interlock.Files, root: Path) -> None:
    files.discard("plan.md")
    files.update("plan.md", lambda text: "second\n")
    (root / "plan.md").write_text("a\nb\nc\n")
    assert files.read("plan.md").edited
    assert (root / "plan.md").read_text() == "a\nb\nc\n"


def test_rebuild_goes_by_a_store_that_has_lost_commits(tmp_path: Path, root: Path) -> None:
    store, backup = tmp_path / "lost.db", tmp_path / "backup.db"
    url = f"sqlite:///{store}"
    with interlock.open(url) as space:
        space.files(root).update("plan.md", lambda text: "kept")
    shutil.copy(store, backup)
    with interlock.open(url) as space:
        space.files(root).update("plan.md", lambda text: "lost")
    shutil.copy(backup, store)
    with interlock.open(url) as space:
        files = space.files(root)
        assert files.sync()[0].state == "overtaken"
        assert (root / "plan.md").read_text() == "lost"
        files.rebuild()
        assert (root / "plan.md").read_text() == "kept"
        assert files.update("plan.md", lambda text: "next").version == 2
        assert (root / "plan.md").read_text() == "next"


def test_files_change_places_without_the_function_of_the_c_library(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    rename = disk.syscall(ctypes.CDLL(None, use_errno=True))
    assert rename(-100, bytes(one), -100, bytes(other), 2) == 0
    assert (one.read_text(), other.read_text()) == ("2", "1")
    assert rename(-100, bytes(one), -100, bytes(other), 1) == -1


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "both"),
    [
        ("a\nb\nc\n", "a\nb\nC\n", "A\nb\nc\n", "A\nb\nC\n"),
        ("a\nb\nc\n", "a\nx\nc\n", "a\ny\nc\n", None),
        ("a\nb\nc\n", "a\nx\nc\n", "a\nx\nc\n", "a\nx\nc\n"),
        ("a\nb\nc\n", "b\nc\n", "a\nb\nc\nd\n", "b\nc\nd\n"),
        ("a\n", "a\nmine\n", "a\ntheirs\n", "a\ntheirs\nmine\n"),
        ("a\n", "a\nsame\n", "a\ntheirs\nsame\n", "a\ntheirs\nsame\n"),
        ("a", "b", "c", None),
        ("a\nb\nc\nd\n", "a\nd\n", "a\nb\nx\nd\n", None),
        ("a\nb\nc\n", "x\na\nb\nc\n", "a\nb\nc", "x\na\nb\nc"),
    ],
)
def test_texts_are_merged_by_lines(base: str, mine: str, theirs: str, both: str | None) -> None:
    assert merged_text(base, mine, theirs) == both


LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d\n"]), max_size=8).map("".join)


@given(LINES, LINES, LINES)
def test_a_merge_of_what_only_one_has_changed_is_that(base: str, mine: str, theirs: str) -> None:
    assert merged_text(base, base, theirs) == theirs
    assert merged_text(base, mine, base) == mine
    both, other_way = merged_text(base, mine, theirs), merged_text(base, theirs, mine)
    assert (both is None) == (other_way is None)
    if both is not None:
        assert {*both} <= {*base, *mine, *theirs}


def test_what_is_no_text_is_not_merged() -> None:
    assert merged("a", b"\xff", b"\xfe", b"\xfd") is None
    assert merged("a.json", b"{}", b'{"a": 1}', b"not JSON") is None
    assert merged("a.json", b'{"a": 1}', b'{"a": 2}', b'{"a": 3}') is None
