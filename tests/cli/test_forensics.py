"""`interlock forensics`, `restore`, `record` and `monitor` at the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main
from interlock.forensics import Alert
from interlock.forensics.monitor import Hooks

LINES = [
    {"key": "plan", "time": 1.0, "agent": "ann", "kind": "put", "value": {"items": ["x"]}},
    {"key": "plan", "time": 1.5, "agent": "ann", "kind": "read"},
    {"key": "plan", "time": 1.6, "agent": "ben", "kind": "read"},
    {"key": "plan", "time": 2.0, "agent": "ann", "kind": "put", "value": {"items": ["x", "a"]}},
    {"key": "plan", "time": 2.05, "agent": "ben", "kind": "put", "value": {"items": ["x", "b"]}},
]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return written(tmp_path / "history.jsonl", LINES)


def written(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_a_loss_is_shown_and_is_the_exit_code(history: Path) -> None:
    shown = call("forensics", history)
    assert shown.exit_code == 6
    assert 'certain: plan: ben at 5 overwrote what ann wrote at 4: items: +"a"' in shown.stdout
    assert (
        'the last value before the first loss (position 4): {"items": ["x", "a"]}' in shown.stdout
    )
    assert "5 events, 1 keys (0 lost nothing), 1 overlapping writes" in shown.stdout


def test_json_has_losses_overlaps_and_the_sequence(history: Path) -> None:
    told = json.loads(call("forensics", history, "--json", "--key", "plan").stdout)
    (loss,), (overlap,) = told["losses"], told["overlaps"]
    assert (loss["certainty"], loss["base"], loss["lost"]) == (
        "certain",
        1,
        [{"path": ["items"], "added": ["a"], "removed": []}],
    )
    assert (overlap["gap_ms"], overlap["read"]) == (50.0, "stale")
    assert [event["kind"] for event in told["sequence"]] == ["put", "read", "read", "put", "put"]
    assert told["keys"][0]["before_loss"] == {"items": ["x", "a"]}


def test_the_sequence_of_a_key_is_a_table(history: Path) -> None:
    shown = call("forensics", history, "--key", "plan", "--limit", 2).stdout
    assert "... and 3 more (--limit)" in shown
    assert "ann" in shown


def test_nothing_lost_is_exit_code_0(history: Path) -> None:
    assert call("forensics", written(history, LINES[:4])).exit_code == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"key": "plan"}, "time is not a time"),
        ({"time": 1}, "key is not a text"),
        ({"key": "k", "time": 1, "kind": "grow"}, "kind is not a kind"),
        ({"key": "k", "time": 1, "base": -1}, "base is not a whole number"),
        ({"key": "k", "time": "noon"}, "time is not a time"),
        ([1], "is not a JSON object"),
    ],
)
def test_a_malformed_line_is_a_wrong_call(history: Path, line: Any, problem: str) -> None:
    shown = call("forensics", written(history, [LINES[0], line]))
    assert (shown.exit_code, f"line 2: {problem}" in shown.stderr) == (2, True)


def test_a_line_that_is_cut_off_is_left_out(history: Path) -> None:
    history.write_text(history.read_text()[:-20])
    assert "4 events" in call("forensics", history).stdout


def test_a_trace_of_agents_is_checked_as_detect_does(tmp_path: Path) -> None:
    line = {"session": "s", "id": "i", "agent": "a", "read_time": 1, "write_time": 2}
    shown = call("forensics", written(tmp_path / "trace.jsonl", [line]))
    assert (shown.exit_code, shown.stdout) == (0, call("detect", tmp_path / "trace.jsonl").stdout)


def test_what_is_not_there_and_what_is_wrong(tmp_path: Path) -> None:
    assert call("forensics", tmp_path / "none").exit_code == 1
    assert call("forensics", "sqlite:///x.db", "--table", "t").exit_code == 2
    assert call("forensics", "x", "--window", "soon").exit_code == 2
    assert call("record", "sqlite:///x.db").exit_code == 2
    assert call("monitor", f"sqlite:///{tmp_path}/none.db").exit_code == 1


def test_lost_parts_are_merged_into_a_space_and_written_after_yes(
    history: Path, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/team.db"
    with interlock.open(store, agent="ben") as space:
        space.create("plan", {"items": ["x", "b", "new"]})
        shown = call("forensics", history, "--reapply", "--into", store)
        assert (shown.exit_code, '+    "a"' in shown.stdout) == (6, True)
        assert space.read("plan").version == 1
        assert call("forensics", history, "--reapply", "--into", store, "--yes").exit_code == 0
        assert space.read("plan").value == {"items": ["x", "b", "new", "a"]}
        again = call("forensics", history, "--reapply", "--into", store, "--yes")
        assert (again.exit_code, again.stdout) == (0, "plan: nothing is missing\n")


def test_a_field_that_changed_since_is_not_written_over(tmp_path: Path) -> None:
    lines = [
        line | ({"value": {"s": value}} if value else {})
        for line, value in zip(LINES, ("new", "", "", "paid", "sent"), strict=True)
    ]
    lines[4]["value"] = {"s": "new", "seat": 1}
    store = f"sqlite:///{tmp_path}/team.db"
    with interlock.open(store) as space:
        space.create("plan", {"s": "cancelled"})
        file = written(tmp_path / "history.jsonl", lines)
        shown = call("forensics", file, "--reapply", "--into", store, "--yes")
        assert (shown.exit_code, "another value" in shown.stdout) == (6, True)
        assert space.read("plan").value == {"s": "cancelled"}


def test_restore_brings_back_a_moment_as_a_new_write(tmp_path: Path, history: Path) -> None:
    store = f"sqlite:///{tmp_path}/team.db"
    with interlock.open(store, agent="ann") as space:
        record = space.create("plan", {"items": ["first"]})
        space.write(record, {"items": []})
        assert call("restore", "plan", "--position", 1, "--store", store).exit_code == 0
        restored = space.read("plan")
        assert (restored.value, restored.version) == ({"items": ["first"]}, 3)
        options = ("--source", history, "--store", store)
        assert (
            call("restore", "plan", "--time", "1970-01-01T00:00:02+00:00", *options).exit_code == 0
        )
        assert space.read("plan").value == {"items": ["x", "a"]}
        assert call("restore", "nothing", "--position", 1, "--store", store).exit_code == 2
        assert call("restore", "plan", "--store", store).exit_code == 2


def test_a_space_has_overlaps_and_loses_nothing(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/team.db"
    with interlock.open(store, agent="ann") as space:
        record = space.create("plan", ["x"])
        with interlock.open(store, agent="ben") as other:
            other.write(record, [])
    told = json.loads(call("forensics", store, "--json").stdout)
    assert (told["losses"], [each["read"] for each in told["overlaps"]]) == ([], ["fresh"])


def test_lanes_are_drawn(history: Path, tmp_path: Path) -> None:
    picture = tmp_path / "lanes.svg"
    assert call("forensics", history, "--plot", picture).exit_code == 6
    assert picture.read_text().startswith("<?xml")
    assert call("forensics", history, "--plot", tmp_path / "lanes.txt").exit_code == 2


def test_the_rows_of_a_table_are_recorded_and_reapplied(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS lost CASCADE; CREATE SCHEMA lost")
        connection.execute("CREATE TABLE lost.trips (id int PRIMARY KEY, seats jsonb)")
        sql = call("record", postgres_url, "--table", "lost.trips", "--sql").stdout
        assert "CREATE TRIGGER interlock_history" in sql
        assert call("forensics", postgres_url, "--table", "lost.trips").exit_code == 2
        assert call("record", postgres_url, "--table", "lost.trips").exit_code == 0
        connection.execute("SET application_name = 'ann'")
        connection.execute("INSERT INTO lost.trips VALUES (7, '[1]')")
        connection.execute("UPDATE lost.trips SET seats = '[1, 2]'")
        connection.execute("SET application_name = 'ben'")
        connection.execute("UPDATE lost.trips SET seats = '[1, 3]'")
        told = json.loads(call("forensics", postgres_url, "--table", "lost.trips", "--json").stdout)
        (loss,) = told["losses"]
        assert (loss["key"], loss["lost_agent"], loss["agent"]) == ("lost.trips/7", "ann", "ben")
        options = ("forensics", postgres_url, "--table", "lost.trips", "--reapply", "--yes")
        assert call(*options).exit_code == 0
        assert connection.execute("SELECT seats FROM lost.trips").fetchone() == ([1, 3, 2],)
        assert call("record", postgres_url, "--table", "lost.trips", "--remove").exit_code == 0
        connection.execute("DELETE FROM lost.trips")
        recorded = "SELECT count(*) FROM lost.trips_interlock_history"
        assert connection.execute(recorded).fetchone() == (4,)


def test_the_monitor_prints_what_happens_in_a_space(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/team.db"
    with interlock.open(store, agent="ann") as space:
        record = space.create("plan", ["x"])
    position = tmp_path / "position.json"
    options = ("monitor", store, "--json", "--position-file", position, "--window", "60s")
    assert call(*options, "--for", "1ms").stdout == ""
    with interlock.open(store, agent="ben") as space:
        space.write(record, ["x", "b"])
        with interlock.open(store, agent="cid") as other, pytest.raises(interlock.Conflict):
            other.write(record, ["x", "c"])
    alerts = [json.loads(line) for line in call(*options, "--for", "1s").stdout.splitlines()]
    assert [(each["kind"], each["key"]) for each in alerts] == [
        ("overlap", "plan"),
        ("refusal", "plan"),
    ]
    assert call(*options, "--for", "1ms").stdout == ""


def test_thresholds_say_from_how_many_on(history: Path, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("[monitor]\noverlap = 0\nloss = 2\n", encoding="utf-8")
    options = ("--for", "1ms", "--json", "--thresholds", limits)
    assert call("monitor", history, *options).stdout == ""
    with history.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line | {"key": "q"}) + "\n" for line in LINES)
        file.writelines(json.dumps(line) + "\n" for line in LINES[1:])
    assert [
        json.loads(line)["kind"] for line in call("monitor", history, *options).stdout.splitlines()
    ] == ["loss"]
    limits.write_text("[monitor]\nlosses = 1\n", encoding="utf-8")
    assert "'losses' is no threshold" in call("monitor", history, *options).stderr


@contextmanager
def receiver(failures: int) -> Iterator[tuple[str, list[bytes]]]:
    """A server that fails so often, and then takes what it is sent."""
    taken: list[bytes] = []
    left = [failures]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            left[0] -= 1
            if left[0] < 0:
                taken.append(body)
            self.send_response(500 if left[0] >= 0 else 204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ALERT = Alert("loss", "plan", "plan: lost", 1_000_000)


def test_alerts_are_handed_to_a_command_and_a_url_again_if_they_fail(tmp_path: Path) -> None:
    failed: list[str] = []
    out = tmp_path / "alerts"
    with receiver(failures=1) as (url, taken):
        hooks = Hooks(f"cat >> {out}", url, failed.append)
        hooks.put(ALERT)
        hooks.close()
    assert json.loads(out.read_text()) == json.loads(taken[0]) == ALERT.to_json()
    assert failed == []


def test_a_command_that_always_fails_is_given_up() -> None:
    failed: list[str] = []
    hooks = Hooks("exit 3", None, failed.append)
    hooks.put(ALERT)
    hooks.close()
    assert len(failed) == 1
    assert failed[0].startswith("--exec has failed 4 times")


def test_ctrl_c_ends_the_monitor(history: Path) -> None:
    program = "from interlock.cli import main; main()"
    command = [sys.executable, "-c", program, "monitor", str(history), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"kind": "overlap"')
        process.send_signal(2)
        assert process.wait(20) == 0
