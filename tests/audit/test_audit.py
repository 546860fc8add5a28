"""What the audit reads and leaves out: settings, comments, baselines, stores of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.audit import SettingsError, audit
from interlock.audit.settings import (
    Settings,
    find_settings,
    read_settings,
    without_baseline,
    write_baseline,
)
from interlock.audit.value import Flow, Read, Site, Spot, in_order

REST = (frozenset[str](), 0, ())  # no locks, no waits, no loops

RACE = """\
import redis
r = redis.Redis()

def bump(key):
    value = int(r.get(key))
    r.set(key, value + 1){comment}
"""


def write(folder: Path, text: str, name: str = "app.py") -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder


def rules(folder: Path, settings: Settings | None = None) -> list[str]:
    return [each.rule for each in audit([folder], settings=settings).findings]


def test_a_finding_names_read_write_path_and_fix(tmp_path: Path) -> None:
    (finding,) = audit([write(tmp_path, RACE.format(comment=""))]).findings
    assert (finding.rule, finding.function, finding.site.line) == ("lost-update", "bump", 6)
    assert finding.read is not None
    assert finding.read.line == 5
    assert [step.site.line for step in finding.steps] == [5, 6]
    assert "WATCH" in finding.fix


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("  # interlock: ignore[lost-update] one writer", []),
        ("  # interlock: ignore", []),
        ("  # interlock: ignore[stale-retry]", ["lost-update"]),
        ("  # ignore", ["lost-update"]),
    ],
)
def test_a_comment_allows_a_rule_on_its_line(
    tmp_path: Path, comment: str, found: list[str]
) -> None:
    assert rules(write(tmp_path, RACE.format(comment=comment))) == found


def test_ignored_findings_are_counted(tmp_path: Path) -> None:
    write(tmp_path, RACE.format(comment="  # interlock: ignore"))
    assert audit([tmp_path]).ignored == 1


def test_settings_leave_out_files_and_rules(tmp_path: Path) -> None:
    write(tmp_path, RACE.format(comment=""))
    assert rules(tmp_path, Settings(exclude=["app.py"])) == []
    assert rules(tmp_path, Settings(ignore=["lost-update"])) == []


def test_a_store_of_ones_own_takes_five_lines(tmp_path: Path) -> None:
    write(tmp_path, "def add(ledger, k, n):\n    ledger.push(k, ledger.take(k) + n)\n")
    write(
        tmp_path,
        '[[tool.interlock.audit.store]]\nname = "ledger"\nreceivers = ["*ledger"]\n'
        'reads = ["take(key)"]\nwrites = ["push(key, value)"]\n',
        "pyproject.toml",
    )
    assert rules(tmp_path) == []
    assert rules(tmp_path, find_settings(tmp_path)) == ["lost-update"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exclude = 3", "exclude"),
        ("unknown = 3", "unknown"),
        ('ignore = ["no-such-rule"]', "no-such-rule"),
        ('[[store]]\nreads = ["get(key)"]', "name"),
        ('[[store]]\nname = "x"\nreads = ["get(what)"]', "what"),
        ('[[store]]\nname = "x"\nreads = ["get"]', "signature"),
        ('[[store]]\nname = "x"\nreceiver = ["r"]', "receiver"),
        ("= 3", "Can't read"),
    ],
)
def test_wrong_settings_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "audit.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(SettingsError, match=message):
        audit([tmp_path], settings=read_settings(file))


def test_a_baseline_accepts_what_is_there_and_nothing_new(tmp_path: Path) -> None:
    write(tmp_path, RACE.format(comment=""))
    baseline = tmp_path / "baseline.json"
    write_baseline(baseline, audit([tmp_path]).findings)
    write(tmp_path, "# moved\n\n" + RACE.format(comment=""))
    assert without_baseline(baseline, audit([tmp_path]).findings) == []
    write(tmp_path, RACE.format(comment="").replace("bump", "second"), "more.py")
    assert len(without_baseline(baseline, audit([tmp_path]).findings)) == 1


def test_tests_and_migrations_are_left_out_unless_named(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    file = write(tmp_path / "tests", RACE.format(comment="")) / "app.py"
    assert rules(tmp_path) == []
    assert rules(file) == ["lost-update"]


def test_a_file_that_cannot_be_parsed_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, RACE.format(comment=""))
    write(tmp_path, "def (:\n", "broken.py")
    report = audit([tmp_path])
    assert len(report.findings) == 1
    assert [Path(file).name for file, _ in report.unreadable] == ["broken.py"]


def test_a_lock_that_every_caller_holds_makes_a_helper_safe(tmp_path: Path) -> None:
    helper = RACE.format(comment="")
    write(tmp_path, helper + "\ndef caller(key):\n    with r.lock(key):\n        bump(key)\n")
    assert rules(tmp_path) == []
    write(tmp_path, helper + "\ndef caller(key):\n    bump(key)\n")
    assert rules(tmp_path) == ["lost-update"]


def test_a_race_across_files_is_found_in_the_function_where_it_closes(tmp_path: Path) -> None:
    write(tmp_path, "", "__init__.py")
    write(
        tmp_path,
        "import redis\nr = redis.Redis()\n"
        "def load_notes(k):\n    return r.get(k)\n"
        "def save_notes(k, v):\n    r.set(k, v)\n",
        "notes.py",
    )
    write(
        tmp_path,
        "from .notes import load_notes, save_notes\n"
        "def note(k, text):\n    old = load_notes(k)\n    save_notes(k, old + text)\n",
    )
    (finding,) = audit([tmp_path]).findings
    assert finding.function == "note"
    assert [step.site.function for step in finding.steps] == [
        "note",
        "load_notes",
        "note",
        "save_notes",
    ]


def test_a_wait_in_the_window_makes_it_an_error(tmp_path: Path) -> None:
    write(
        tmp_path,
        "async def f(redis_client, llm, k):\n    old = await redis_client.get(k)\n"
        "    new = await llm.ainvoke(old)\n    await redis_client.set(k, new)\n",
    )
    (finding,) = audit([tmp_path]).findings
    assert finding.severity == "error"


def test_of_several_reads_the_first_in_the_code_comes_first() -> None:
    """Whatever order a set has in this run: a baseline and a reader compare reports."""
    reads = [
        Read(Site("a.py", line, 0, line, 9, "f"), Spot("redis", "r", "k"), "get", False, *REST)
        for line in range(40)
    ]
    flows = {Flow(read, part) for read in reads for part in ("=", "x")}
    ordered = [(flow.read.site.line, flow.part) for flow in in_order(flows)]
    assert ordered == [(line, part) for line in range(40) for part in ("=", "x")]
