"""`interlock simulate` with real agents: processes (and threads) on real SQLite files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import interlock
from interlock.cli.simulate import simulate
from interlock.verify.simulate import PATTERNS, Settings, run
from interlock.verify.simulate.patterns import LastWriteWins, Think, _GetModifySet
from interlock.verify.simulate.scenarios import SCENARIOS

AGENTS = 12
FIELDS = ["pattern", "agents", "acknowledged", "kept", "lost", "failed", "thoughts", "seconds"]
# Long beside the scheduling of processes, so that agents do read before others have written.
CROWDED = Settings(agents=AGENTS, think=(0.05, 0.1), seed=1)


def invoke(arguments: str, *more: str) -> tuple[int, str, str]:
    """Run the command; `arguments` are split at spaces.  Return exit code, stdout and stderr."""
    result = CliRunner().invoke(simulate, [*arguments.split(), *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["last-write-wins", "stale-retry"])
def test_the_losing_patterns_lose_acknowledged_writes(name: str) -> None:
    result = run(PATTERNS[name], CROWDED)
    assert result.acknowledged == AGENTS
    assert result.lost > 0
    assert result.kept + result.lost == AGENTS
    assert (result.failed, result.thoughts) == (0, 1.0)


def test_three_optimistic_tries_lose_nothing_but_agents_fail() -> None:
    result = run(PATTERNS["optimistic-3-tries"], CROWDED)
    assert result.lost == 0
    assert result.failed > 0
    assert result.acknowledged + result.failed == AGENTS
    assert result.errors == {"gave up after three tries": result.failed}


def test_the_lock_keeps_everything_and_lets_one_agent_think_at_a_time() -> None:
    result = run(PATTERNS["lock"], CROWDED._replace(keys=3))
    assert (result.kept, result.lost, result.failed, result.thoughts) == (AGENTS, 0, 0, 1.0)
    assert result.most_at_once() == 1
    assert result.seconds >= sum(CROWDED.think_time(agent, 0) for agent in range(AGENTS))


@pytest.mark.parametrize(
    "settings",
    [
        CROWDED,
        CROWDED._replace(keys=3, writes=2),
        CROWDED._replace(arrivals=2.0),
        CROWDED._replace(threads=True),
    ],
    ids=["one key", "several keys and writes", "arriving", "threads"],
)
def test_interlock_keeps_everything_and_nobody_fails(settings: Settings) -> None:
    result = run(PATTERNS["interlock-update"], settings)
    assert result.acknowledged == result.kept == AGENTS * settings.writes
    assert (result.lost, result.failed) == (0, 0)
    assert result.thoughts >= settings.writes
    assert result.seconds >= result.lower_bound


def test_every_agent_is_a_process_of_its_own_that_thinks_for_its_seeded_time() -> None:
    result = run(PATTERNS["last-write-wins"], CROWDED)
    assert [thought.agent for thought in sorted(result.timeline)] == list(range(AGENTS))
    for thought in result.timeline:
        assert thought.began >= 0
        assert thought.over - thought.began >= CROWDED.think_time(thought.agent, 0)


class _Fails(_GetModifySet):
    def contribute(self, key: str, think: Think) -> None:
        super().contribute(key, think)
        raise OSError("the disk is on fire")


class Failing(LastWriteWins):
    """Writes, and then raises."""

    name = "failing"
    agent = _Fails


class _DiesLater(_GetModifySet):
    written = 0

    def contribute(self, key: str, think: Think) -> None:
        if self.written:
            os.kill(os.getpid(), signal.SIGKILL)
        super().contribute(key, think)
        self.written += 1


class Dying(LastWriteWins):
    """Writes once, and dies over the second contribution."""

    name = "dying"
    agent = _DiesLater


class _NeverConnects(_GetModifySet):
    def __init__(self, db: object) -> None:
        raise PermissionError("not for you")


class Unconnected(LastWriteWins):
    """Fails before the start."""

    name = "unconnected"
    agent = _NeverConnects


@pytest.mark.parametrize("threads", [False, True])
def test_an_agent_that_raises_has_failed_and_its_error_is_kept(threads: bool) -> None:
    result = run(Failing(), CROWDED._replace(threads=threads))
    assert (result.failed, result.acknowledged) == (AGENTS, 0)
    assert result.errors == {"OSError: the disk is on fire": AGENTS}


def test_an_agent_that_dies_has_failed_and_what_it_was_told_before_still_counts() -> None:
    result = run(Dying(), CROWDED._replace(writes=2))
    assert result.failed == result.acknowledged == AGENTS
    assert result.lost > 0
    assert result.errors == {"died: killed by SIGKILL": AGENTS}


def test_agents_that_cannot_connect_do_not_hold_up_the_run() -> None:
    result = run(Unconnected(), CROWDED)
    assert result.errors == {"PermissionError: not for you": AGENTS}
    assert (result.seconds, result.thoughts) == (0.0, 0.0)


def test_the_store_is_removed_or_kept_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(PATTERNS["lock"], Settings(agents=2, think=(0.0, 0.0), threads=True))
    assert list(tmp_path.iterdir()) == []
    store = f"sqlite:///{tmp_path}/kept.db"
    for _ in range(2):  # a second run on the same store counts its own writes only
        code, out, _ = invoke("--agents 3 --think 1ms -p interlock-update --json", "--store", store)
        assert code == 0
        assert [json.loads(out)[0][field] for field in ("acknowledged", "kept", "lost")] == [
            3,
            3,
            0,
        ]
    with interlock.open(store, space="interlock-update") as space:
        assert len(space.read("document/0").value) == 6


def test_json_is_one_list_of_exactly_the_promised_objects() -> None:
    code, out, err = invoke("--agents 4 --think 1ms-3ms --seed 1 --json")
    assert code == 0
    assert err == ""
    objects = json.loads(out)
    assert [one["pattern"] for one in objects] == list(PATTERNS)
    for one in objects:
        assert list(one) == FIELDS
        assert one["agents"] == 4
        assert one["acknowledged"] == one["kept"] + one["lost"]
        assert isinstance(one["thoughts"], float)


def test_the_table_fits_80_columns_and_one_sentence_tells_each_pattern() -> None:
    code, out, _ = invoke("--agents 5 --think 5ms-9ms --seed 42 --threads")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "seed 42" in out
    for name in PATTERNS:
        assert re.search(
            rf"^{name} +\d+ +\d+ +\d+ +\d+ +\d\.\d\d +[\d.]+ s \([\d.]+x\)$", out, re.M
        )
        assert f"\n{name}: " in out


def test_the_human_output_shows_why_agents_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PATTERNS, "lock", Failing())
    code, out, _ = invoke("--agents 3 --think 1ms -p lock")
    assert code == 0
    assert "3 failed: OSError: the disk is on fire" in out


def test_a_drawn_seed_is_printed_and_repeating_a_pattern_runs_it_once() -> None:
    _, out, err = invoke("--agents 2 --think 1ms --threads -p lock -p lock --json")
    assert re.fullmatch(r"seed \d+\n", err)
    assert len(json.loads(out)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--think 20", "'--think': '20' is not a duration such as 50ms"),
        ("--think 60ms-20ms", "shorter one first"),
        ("--arrivals 0x", "'--arrivals': '0x' is not a multiple such as 2x"),
        ("--agents 0", "'--agents'"),
        ("--pattern nope", "'nope' is not one of"),
        ("--plot picture.pdf", "a .svg or a .png file"),
        ("--plot no/such/folder/picture.png", "does not exist"),
        ("--store sqlite://", "agents can't share a store in memory"),
        ("--store bogus", "is not a store URL"),
        ("--store sqlite:///x.db -p lock", "none of the chosen patterns (lock) uses it"),
    ],
)
def test_bad_input_is_refused_before_any_agent_runs(arguments: str, said: str) -> None:
    code, out, err = invoke(arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert not Path("x.db").exists()


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_picture_shows_every_pattern(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"picture{suffix}"
    code, out, _ = invoke("--agents 4 --think 1ms --threads --plot", str(file))
    assert code == 0
    assert "The timelines are in" in out
    written = file.read_bytes()
    if suffix == ".png":
        assert written.startswith(b"\x89PNG")
    else:
        assert written.lstrip().startswith(b"<?xml")
        assert all(f"<!-- {name} -->".encode() in written for name in PATTERNS)


def test_without_matplotlib_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = invoke("--plot", str(tmp_path / "picture.png"))
    assert code == 1
    assert "pip install 'interlock[plot]'" in err


def test_matplotlib_is_imported_only_to_draw() -> None:
    asked = "import sys, interlock.cli.simulate; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Agent 0 tells that the agents were released; the others think for a minute.
_INTERRUPTED = """
import os, sys, tempfile
tempfile.tempdir = sys.argv.pop(1)
from interlock.cli.simulate import simulate
from interlock.verify.simulate import PATTERNS
from interlock.verify.simulate.scenarios import SCENARIOS
from interlock.verify.simulate.patterns import LastWriteWins

class OneIsQuick(LastWriteWins):
    name = "one-is-quick"

    def connect(self, store, agent):
        made = super().connect(store, agent)
        os.write(1, f"pid {os.getpid()}\\n".encode())  # one call: print may mix the agents' lines
        if agent == "agent-0":
            made.contribute = lambda key, think: os.write(1, b"released\\n")
        return made

if __name__ == "__main__":
    PATTERNS["lock"] = OneIsQuick()
    simulate()
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", [[], ["--threads"]], ids=["processes", "threads"])
def test_an_interrupted_simulation_leaves_nothing_behind(
    tmp_path: Path, sent: signal.Signals, kind: list[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(_INTERRUPTED)
    with tempfile.TemporaryDirectory(prefix="il-") as short:  # sockets have short names only
        _interrupt(script, Path(short), sent, kind)


def _interrupt(script: Path, temporary: Path, sent: signal.Signals, kind: list[str]) -> None:
    command = [sys.executable, str(script), str(temporary), "--agents", "6", "--think", "60s"]
    with subprocess.Popen(
        [*command, "-p", "lock", *kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "released\n":
                break
        assert list(temporary.iterdir()), process.stderr.read()
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # Ctrl-C goes to every process of the terminal
        else:
            process.send_signal(sent)
        complaints = process.stderr.read()
    assert process.returncode == 130
    assert complaints == ""
    assert list(temporary.iterdir()) == []
    agents = {int(line.split()[1]) for line in lines if line.startswith("pid ")}
    assert len(agents) == (1 if kind else 6)
    for agent in agents:
        with pytest.raises(ProcessLookupError):
            os.kill(agent, 0)


def test_a_hundred_agents_at_once_lose_nothing_with_interlock_and_nobody_fails() -> None:
    result = run(PATTERNS["interlock-update"], Settings(agents=100, seed=1))
    assert (result.acknowledged, result.kept, result.lost, result.failed) == (100, 100, 0, 0)
    assert result.thoughts <= 2.0


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_in_each_story_the_usual_way_loses_and_interlock_keeps_everything(name: str) -> None:
    scenario = SCENARIOS[name]
    settings = scenario.settings(CROWDED)
    usual, ours = (run(pattern, settings) for pattern in scenario.patterns)
    assert usual.lost > 0
    assert (ours.lost, ours.kept) == (0, ours.acknowledged)
    if name == "zombie":
        assert ours.errors == {"fenced: it was replaced while it slept": settings.keys}
        assert ours.acknowledged == settings.keys
    else:
        assert (ours.failed, ours.acknowledged) == (0, settings.agents * settings.writes)


def test_stories_bring_their_own_patterns() -> None:
    code, out, _ = invoke("--scenario memory --agents 4 --think 1ms --threads --json")
    assert code == 0
    assert [each["pattern"] for each in json.loads(out)] == ["last-write-wins", "interlock-append"]
    assert invoke("--scenario memory -p lock")[0] == 2
    assert invoke("--scenario zombie --threads")[0] == 2


# Functions of one's own

OWN = f"{__name__}:"


def guarded(space: interlock.Space, key: str, think: Think) -> None:
    space.update(key, think, default=[])


async def guarded_async(space: interlock.AsyncSpace, key: str, think: Think) -> None:
    await space.update(key, think, default=[])


def careless(space: interlock.Space, key: str, think: Think) -> None:
    thought = think(space.read(key).value or [])
    space.update(key, lambda value: thought)


def elsewhere(space: interlock.Space, item: str) -> None:
    space.create(f"notes/{item}", {"said": item})


def strange(space: interlock.Space, number: int, item: str) -> None:
    raise AssertionError("it is not called")


def no_item(space: interlock.Space, key: str) -> None:
    raise AssertionError("it is not called")


@pytest.mark.parametrize("name", ["guarded", "guarded_async", "elsewhere"])
def test_a_function_of_ones_own_that_is_right_loses_nothing(name: str) -> None:
    code, out, _ = invoke(f"{OWN}{name} --agents 6 --think 1ms-20ms --json --seed 1")
    (one,) = json.loads(out)
    assert (code, one["pattern"], one["acknowledged"], one["kept"]) == (0, name, 6, 6)


def test_a_function_of_ones_own_that_loses_is_shown_beside_a_pattern() -> None:
    code, out, _ = invoke(
        f"{OWN}careless --agents 6 --think 20ms-40ms --json --seed 1 -p interlock-append"
    )
    own, ours = json.loads(out)
    assert (code, own["acknowledged"], ours["pattern"]) == (0, 6, "interlock-append")
    assert own["lost"] > 0
    assert (ours["lost"], own["thoughts"]) == (0, 1.0)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("nope", "is not a function's name"),
        ("no.such.module:f", "cannot be imported"),
        (f"{OWN}nope", "cannot be imported"),
        (f"{OWN}OWN", "is not a function"),
        (f"{OWN}strange", "has a parameter 'number'. It may take space, key, item, think"),
        (f"{OWN}no_item", "takes neither item nor think"),
        (f"{OWN}guarded --scenario booking", "not both"),
    ],
)
def test_what_is_no_function_of_ones_own_is_refused(named: str, said: str) -> None:
    code, out, err = invoke(named)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


def test_the_usual_table_has_a_second_one_with_five_keys() -> None:
    code, out, _ = invoke("--agents 5 --think 1ms --seed 1 --threads")
    assert code == 0
    assert ("on 1 key of" in out, "on 5 keys of" in out) == (True, True)
    assert len(re.findall(r"^interlock-update +5", out, re.M)) == 2
    assert "on 5 keys" not in invoke("--agents 5 --think 1ms --threads --keys 1")[1]
