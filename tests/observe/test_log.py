"""The log: bounded in rate, silent until somebody listens, and without passwords."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.drive import SyncDriver
from interlock.errors import AnswerLost
from interlock.observe import log
from interlock.observe.observer import Observer

PASSWORD = "hunter2"


class Away:
    """A backend that loses so many answers to commits, or fails."""

    def __init__(self, backend: Any, losses: int = 0, fails: Exception | None = None) -> None:
        self._backend = backend
        self._losses = losses
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def perform(self, request: Any) -> Any:
        if self._fails is not None:
            raise self._fails
        answer = self._backend.perform(request)
        if self._losses:
            self._losses -= 1
            raise AnswerLost("the cable was cut")
        return answer


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "interlock"]


def test_refusals_that_come_fast_are_counted_instead(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BURST", 2)
    now = [0.0]
    monkeypatch.setattr("interlock.observe.log.time.monotonic", lambda: now[0])
    space = log.Log("s")
    notice = interlock.RefusalNotice("held", "s", "us", "k", "other", "Held", 0, "")
    for _ in range(5):
        space.refusal(notice)
    text = "space='s' Held: key='k' agent='us' other='other'"
    assert lines(caplog) == [text] * 2
    now[0] += 1.0
    space.refusal(notice)
    assert lines(caplog)[2:] == [f"{text} (3 more left out)"]
    space.refusal(notice)
    space.refusal(notice)
    space.close()
    assert lines(caplog)[4:] == ["space='s' 1 more lines of sort 'refusal' left out"]


def test_one_space_does_not_take_the_lines_of_another(caplog: pytest.LogCaptureFixture) -> None:
    notice = interlock.RefusalNotice("held", "s", "us", "k", None, "Held", 0, "")
    noisy, calm = log.Log("noisy"), log.Log("calm")
    for _ in range(100):
        noisy.refusal(notice)
    calm.refusal(notice)
    assert lines(caplog)[-1].startswith("space='calm'")
    assert len(lines(caplog)) <= log.BURST + 2


def test_a_lost_answer_is_a_reconnect_and_one_commit(caplog: pytest.LogCaptureFixture) -> None:
    with interlock.open("sqlite://", agent="us") as space:
        told: list[Any] = []
        driver = space.session.driver
        space.on("reconnect", told.append)
        space.on("commit", told.append)
        space.session.driver = SyncDriver(Away(driver.backend, losses=2), driver.observer)
        space.create("k", 1)
        space.session.driver = driver
        assert space.metrics().commits == {"us": 1}
        assert space.metrics().reconnects == 1
    assert [(each.event, each.agent) for each in told] == [("reconnect", "us"), ("commit", "us")]
    assert told[0].attempts == 3
    (line,) = lines(caplog)
    assert "Reconnected: answered at attempt 3" in line


def test_a_fault_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with interlock.open("sqlite://", agent="us") as space:
        driver = space.session.driver
        away = Away(driver.backend, fails=interlock.Unavailable("Can't reach it."))
        told: list[interlock.StoreNotice] = []
        space.on("fault", told.append)
        space.session.driver = SyncDriver(away, driver.observer)
        with pytest.raises(interlock.Unavailable):
            space.read("k")
        space.session.driver = driver
        assert space.metrics().faults == {"Unavailable": 1}
    assert [each.reason for each in told] == ["Unavailable"]
    (line,) = caplog.records
    assert (line.levelno, line.getMessage()) == (
        logging.ERROR,
        "space='default' Unavailable: agent='us': Can't reach it.",
    )


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://bob:{PASSWORD}@127.0.0.1:1/db?password={PASSWORD}",
        f"redis://:{PASSWORD}@127.0.0.1:1/0?password={PASSWORD}",
    ],
)
def test_no_password_is_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(interlock.Fault) as problem:
            interlock.open(url, busy_timeout=0.1)
        Observer("s").failed("us", problem.value)  # as any request of an open space
    assert lines(caplog)
    assert PASSWORD not in caplog.text


def test_a_slow_commit_is_logged_from_the_limit_on(caplog: pytest.LogCaptureFixture) -> None:
    with interlock.open("sqlite://", agent="us", slow_commit=0) as space:
        told: list[interlock.CommitNotice] = []
        space.on("slow_commit", told.append)
        space.create("k", "secret")
    with interlock.open("sqlite://", agent="us", slow_commit=None) as space:
        space.create("k", 1)
    (line,) = lines(caplog)
    assert line.startswith("space='default' Slow commit: 0.")
    assert "key='k' agent='us'" in line
    assert "secret" not in line
    assert [each.event for each in told] == ["slow_commit"]


@pytest.mark.parametrize("limit", [-1, "soon", True, float("nan")])
async def test_a_bad_limit_of_slow_commits_is_refused(tmp_path: Path, limit: Any) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with pytest.raises(interlock.Invalid, match="slow_commit"):
        interlock.open(url, slow_commit=limit)
    with pytest.raises(interlock.Invalid, match="slow_commit"):
        await interlock.open_async(url, slow_commit=limit)
    assert not list(tmp_path.iterdir())


def test_nothing_is_printed_where_nobody_has_set_up_logging() -> None:
    program = (
        "import interlock\n"
        "with interlock.open('sqlite://', slow_commit=0) as space: space.create('k', 1)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("", "")
