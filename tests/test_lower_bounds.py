"""The versions that extras ask for; `tests.lower_bounds` tries the oldest ones."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from interlock import extras
from tests import lower_bounds

PROJECT = tomllib.loads((lower_bounds.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASKED = {
    extra: [Requirement(each) for each in asked]
    for extra, asked in PROJECT["project"]["optional-dependencies"].items()
}
# What imports the library of each extra that an adapter, a server or a store is for.
USERS = {
    "adk": "import interlock.adapters.adk",
    "agent-framework": "import interlock.adapters.agent_framework",
    "anthropic": "from interlock.adapters.claude import MemoryTool",
    "autogen": "import interlock.adapters.autogen",
    "chroma": "from interlock.adapters.vectors import *; upsert_chroma(None, [C], agent='a')",
    "cipher": "from interlock.cipher import SubjectCipher; SubjectCipher(None, str)",
    "claude-agent": "from interlock.adapters.claude import SessionStore",
    "crewai": "import interlock.adapters.crewai",
    "fastmcp": "import interlock.adapters.fastmcp",
    "langgraph": "from interlock.adapters.langgraph import Saver",
    "llama-index": "import interlock.adapters.llama_index",
    "mcp": "from interlock.cli.mcp import mcp; mcp.callback"
    "('sqlite:///x.db', 's', 'a', None, False, False, 'space', None, None, (), ())",
    "mongodb": "from interlock import guards; guards.collection(None)",
    "oidc": "from interlock.server.http.issuer import Issuer, Issuers; "
    "Issuers([Issuer(issuer='i', audience='a', keys='k')])",
    "openai-agents": "import interlock.adapters.openai_agents",
    "otel": "from interlock.observe import otel; otel.instrument()",
    "plot": "from interlock.verify.simulate import results; results.check_drawable(P)",
    "postgres": "import interlock; interlock.open('postgresql://nowhere/db')",
    "prometheus": "from interlock.observe import prometheus; prometheus.register()",
    "pydantic-ai": "import interlock.adapters.pydantic_ai",
    "qdrant": "from interlock.adapters.vectors import *; upsert_qdrant(None, 'c', [C], agent='a')",
    "redis": "import interlock; interlock.open('redis://nowhere')",
    "server": "from interlock.server import app; app('sqlite:///x.db')",
    "strands": "import interlock.adapters.strands",
    "schema": "import interlock; R = interlock.guarded(schema=int); "
    "interlock.open('sqlite://', rules={'k': R})",
    "toml": "from interlock import guards; guards.file('.').create('a.toml', {'n': 1})",
    # It is used where `langgraph` is, which is new enough.
    "vectors": "old = m.version; m.version = lambda n: '99' if 'lang' in n else old(n); "
    "from interlock.adapters.langgraph import Store; "
    "Store('sqlite://', index={'dims': 2, 'embed': lambda texts: []})",
    "verify": "from interlock.verify import laws; laws(None, None)",
}


@pytest.mark.parametrize("extra", sorted(ASKED))
def test_installed_versions_are_those_that_pyproject_asks_for(extra: str) -> None:
    for asked in ASKED[extra]:
        if extra == "crewai":
            continue  # it has an environment of its own
        found = metadata.version(asked.name)
        assert asked.specifier.contains(found, prereleases=True), f"{asked} is {found}"
        assert extras.bounds(extra)[asked.name] == str(asked.specifier).removeprefix(">=")


def test_each_extra_is_tried_at_its_lower_bounds() -> None:
    assert set(lower_bounds.SMOKES) == set(lower_bounds.extras()) == set(USERS)


@pytest.mark.parametrize("extra", sorted(USERS))
def test_an_older_library_is_refused_by_name(extra: str, tmp_path: Path) -> None:
    """Every library claims to be of version 0.0.1."""
    (tmp_path / "old.py").write_text(
        "import importlib.metadata as m, pathlib\n"
        "version = m.version\n"
        "m.version = lambda name: version(name) if name == 'interlock' else '0.0.1'\n"
        "from interlock.adapters.vectors import Contribution\n"
        "from interlock.extras import NotInstalled\n"
        "C, P = Contribution([1.0], 't'), pathlib.Path('x.svg')\n"
        f"try:\n    exec({USERS[extra]!r})\n"
        "except (NotInstalled, SystemExit) as problem:\n"
        "    problem = problem.__cause__ or problem\n"
        f"    assert isinstance(problem, NotInstalled), problem\n"
        f"    assert 'interlock[{extra}]' in str(problem), problem\n"
        f"    assert '0.0.1 is older' in str(problem), problem\n"
        "else:\n    raise SystemExit('not refused')\n"
    )
    ran = subprocess.run(
        [sys.executable, "old.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout


def test_versions_are_compared_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "lib[a,b]>=4.3; extra == 'x'",
        'other>=10.0 ; extra == "x"',
        "lib>=9; extra == 'y'",
        "click>=8.1",
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    assert extras.bounds("x") == {"lib": "4.3", "other": "10.0"}
    for lib, other, old in (
        ("4.3", "10.0.1", None),
        ("4.10.2", "10.0rc1", None),
        ("4.2.9", "11", "lib"),
        ("5", "9.9.dev1+local", "other"),
    ):
        versions = {"lib": lib, "other": other}
        monkeypatch.setattr(metadata, "version", versions.__getitem__)
        extras.too_old.cache_clear()
        found = extras.too_old("x")
        assert (found or "").startswith(f"{old} {versions[old]} is older" if old else "")
        assert bool(found) == bool(old)
    extras.too_old.cache_clear()
