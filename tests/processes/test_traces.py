"""What real processes did is a behaviour of the spec; the same with a guard ignored is none.

`INTERLOCK_TRACES` says how many runs each store is given: 40 unless it is set.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.processes.doctoring import GUARDS, breaches, doctored, recorded, suspects
from tests.processes.tracing import Crew, Run
from tests.servers.proxy import Proxy
from tests.test_specs import FORMAL, NODE, needs_node

pytestmark = needs_node

RUNS = int(os.environ.get("INTERLOCK_TRACES", "40"))
MUTANT_RUNS = 30
CREWS = 2
KINDS = ["sqlite", "postgres", "redis"]


def carried_out(
    kind: str, request: pytest.FixtureRequest, folder: Path, runs: int, broken: str = ""
) -> Path:
    """Carry out the runs on one kind of store; return the folder of their traces."""
    traces = folder / "traces"
    seeds = iter(range(runs))

    def work(crew: Crew, stack: ExitStack) -> None:
        if kind == "sqlite":
            url = direct = f"sqlite:///{folder / 'store.db'}"
            proxy = None
        else:
            server = request.getfixturevalue(f"{kind}_server")
            proxy = stack.enter_context(Proxy(server.host, server.port))
            url, direct = server.url(port=proxy.port), server.url()
        for seed in seeds:
            run = Run(url, direct, str(traces), seed, broken)
            if proxy is not None:
                order = proxy.cut_after_next if run.lost_after else proxy.cut_before_next
                order(run.lost.encode())
            crew.carry_out(run)

    if kind != "sqlite":
        request.getfixturevalue(f"{kind}_server")  # before there are threads
    with ExitStack() as stack, ThreadPoolExecutor(CREWS) as threads:
        crews = [stack.enter_context(Crew()) for _ in range(CREWS)]
        for done in [threads.submit(work, crew, stack) for crew in crews]:
            done.result()
    return traces


def judged(folder: Path) -> Any:
    """Return what the checker says of the traces in a folder."""
    ran = subprocess.run(
        [NODE or "node", str(FORMAL / "traces.mjs"), "--json", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.stderr == ""
    found = json.loads(ran.stdout)
    assert ran.returncode == (0 if found["ok"] else 1)
    return found


@pytest.fixture(scope="module", params=KINDS)
def traces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traces of runs on each kind of store."""
    return carried_out(request.param, request, tmp_path_factory.mktemp("traced"), RUNS)


def test_what_real_processes_did_is_accepted(traces: Path) -> None:
    found = judged(traces)
    wrong = [key for result in found["results"] for key in result["keys"] if "wrong" in key]
    assert wrong == []
    assert (found["traces"], found["accepted"], found["left"]) == (RUNS, RUNS, 0)
    assert found["events"] > 20 * RUNS
    told: Counter[str] = Counter()
    for trace in recorded(traces):
        lines = [line for lines in trace.files.values() for line in lines]
        told.update(line["told"] for line in lines if "told" in line)
        told["replayed"] += sum(line.get("replayed", False) for line in lines)
        told["lost"] += sum("lost" in line for line in lines)
        told["killed"] += sum(
            not any(line.get("told") for line in f[-1:]) for f in trace.files.values()
        )
    for what in ("Committed", "Conflict", "Fenced", "Held", "Grant", "replayed", "lost", "killed"):
        assert told[what] >= RUNS // 20, f"{what}: {told}"


@pytest.mark.parametrize("guard", GUARDS)
def test_the_same_with_a_guard_ignored_is_rejected(
    traces: Path, guard: str, tmp_path: Path
) -> None:
    expected = {}
    for trace in recorded(traces):
        for number, (asked, wrong) in enumerate(doctored(trace, guard)):
            name = f"{trace.name}-{number}"
            wrong.write(tmp_path, name)
            expected[name] = (str(tmp_path / f"{name}-{Path(asked.file).name}"), asked.line)
    assert len(expected) >= RUNS // 20
    first = {}
    for result in judged(tmp_path)["results"]:
        (key,) = result["keys"]
        first[result["name"]] = (key["wrong"]["file"], key["wrong"]["line"])
    assert first == expected


@pytest.mark.parametrize("guard", GUARDS)
def test_a_store_without_a_guard_is_found_out(
    guard: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = carried_out("sqlite", request, tmp_path, MUTANT_RUNS, guard)
    by_name = {result["name"]: result for result in judged(folder)["results"]}
    rejected = 0
    for trace in recorded(folder):
        (key,) = by_name[trace.name]["keys"]
        breached = breaches(trace, guard)
        assert not (breached and key["accepted"]), (trace.name, breached)
        if not key["accepted"]:
            rejected += 1
            assert key["wrong"]["op"] in suspects(trace, guard), (trace.name, key, breached)
    assert rejected > 0, "no run showed that the guard is gone"
