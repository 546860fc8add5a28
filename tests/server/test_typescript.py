"""The TypeScript client against a real service: nothing is lost, and what is refused is said."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import interlock
from interlock.server.http.identity import SERVICE_SPACE, create_token
from tests.repository import ROOT
from tests.servers.service import Service

AGENTS = int(os.environ.get("INTERLOCK_AGENTS", "20"))  # `make typescript` has 100
CLIENT = ROOT / "clients" / "typescript"


def test_the_story_of_many_agents_loses_nothing(tmp_path: Path) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'store.db'}", SERVICE_SPACE) as space:
        token, _ = create_token(space, "node", role="admin")
    with Service.start(tmp_path, "--tokens") as service:
        command = ["node", "test/story.mjs", service.url(), token, str(AGENTS)]
        ran = subprocess.run(
            command, cwd=CLIENT, capture_output=True, text=True, timeout=120, check=False
        )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found.pop("thoughts") <= 2 * AGENTS
    assert found == {
        "kept": AGENTS,
        "lines": AGENTS,
        "conflict": [True, "Conflict", 2],
        "same": 3,
        "replayed": 3,
        "patched": {"n": 4, "m": 1},
        "was": {"n": 1},
        "absent": False,
        "moved": "Conflict",
        "log": ["k/ä b"] * 4 + ["a", "a", "b"],
        "watched": "later",
        "refused": "Unauthorized",
    }
