"""Every example runs, on every kind of store, and ends as it says."""

from __future__ import annotations

import importlib
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from tests.processes.writers import Place
from tests.repository import ROOT, files, name_of

NAMES = (
    "agent_framework_payment",
    "approval",
    "autogen_teams",
    "google_adk_session",
    "curator",
    "claude_memory",
    "langgraph_memory",
    "langgraph_thread",
    "mcp_two_clients",
    "openai_agents_session",
    "payment_reconciliation",
    "pipeline",
    "seats_guarded",
    "seats_plain",
    "shared_files",
    "three_agents",
    "typed",
)
ELSEWHERE = (  # `tests/crewai`, where its framework is installed; `tests/forensics/test_losing.py`
    *("crewai_flow", "losing/__init__", "losing/app", "losing/ledger", "losing/repaired"),
)


def test_every_example_is_tested() -> None:
    found = [name_of(path) for path in files(".py", under=["examples"])]
    assert found == sorted(f"examples/{name}.py" for name in (*NAMES, *ELSEWHERE))


@pytest.fixture
def url(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return place.url


def test_a_killed_payment_is_charged_once(url: str) -> None:
    found = importlib.import_module("payment_reconciliation").main(url)
    assert [amount for _, amount in found["ledger"]] == [42, 42]
    assert len({key for key, _ in found["ledger"]}) == 2, "an idempotency key for each order"
    assert found["states"] == ["Completed", "Completed"]
    assert found["payments"] == [{"status": "COMPLETED", "charged": 42}] * 2


def test_three_agents_write_an_article(url: str) -> None:
    found = importlib.import_module("pipeline", "shared_files").main(url)
    assert found["text"].splitlines() == [
        "fencing: who lost one is refused, whatever its clock says",
        "leases: who holds one may write, until it runs out",
        "logs: what happened can be read again, in order",
    ]
    researched = {f"article-1.{topic}": "researcher" for topic in ("fencing", "leases", "logs")}
    others = {"article-1": "planner", "article-1.text": "writer"}
    assert found["agents"] == researched | others
    assert found["notes"] == 3


def test_a_curator_keeps_each_memory_once_and_no_guesses(url: str) -> None:
    found = importlib.import_module("curator").main(url)
    assert len(found["straight"]) == 2, "of six"
    texts = {
        key: [memory["text"] for memory in memories]
        for key, memories in found["curated"]["memories"].items()
    }
    assert texts == {
        "memory/agent": ["run the tests before a commit"],
        "memory/project": ["deploys on Fridays fail"],
        "memory/user/kim": ["likes short answers"],
    }
    assert sorted(found["curated"]["rejected"]) == ["KeyError: 'text'", "it is a guess"]
    assert "curator" in found["curated"]["refused"]


def test_an_order_is_typed_all_the_way(url: str) -> None:
    example = importlib.import_module("typed")
    assert str(example.main(url)) == str(example.main(url)) == "24.49"


def test_three_agents_are_counted_and_traced(url: str) -> None:
    found = importlib.import_module("three_agents").main(url)
    assert found["report"] == ["demand grows", "margins shrink", "a rival merges", "p.s.", "signed"]
    assert found["metrics"].average_attempts == 2
    assert [refusal.other for refusal in found["refusals"]] == ["writer"]


def test_two_mcp_clients_keep_all_notes(url: str) -> None:
    found = importlib.import_module("mcp_two_clients").main(url)
    assert found == {"a memory file": (10, 5), "interlock mcp": (10, 10)}


def test_a_person_approves(url: str) -> None:
    found = importlib.import_module("approval").main(url)
    assert found == {
        "runs": {
            "refund-16": "20 paid back",
            "refund-17": "900 paid back",
            "refund-18": "boss said no",
        },
        "paid": {"refunds/refund-16": 20, "refunds/refund-17": 900},
    }


def test_a_langgraph_thread_keeps_all_messages_and_pays_once(url: str) -> None:
    found = importlib.import_module("langgraph_thread").main(url)
    assert found["Interlock"] == {"messages": 12, "payments": 1}
    assert found["LangGraph"]["messages"] < 12
    assert found["LangGraph"]["payments"] == 2


def test_parallel_langgraph_nodes_keep_their_notes(url: str) -> None:
    found = importlib.import_module("langgraph_memory").main(url)
    assert len(found["LangGraph"]) == 1
    assert found["Interlock"] == [f"from agent-{n}" for n in range(8)]


def test_agents_share_a_file(url: str) -> None:
    found = importlib.import_module("shared_files").main(url)
    assert found == {"open": 1, "interlock": 8, "agents": 8}


def test_teams_of_autogen_keep_what_was_said(url: str) -> None:
    found = importlib.import_module("autogen_teams").main(url)
    assert found["ours"] == 12
    assert found["theirs"] < 12


def test_agents_of_claude_keep_each_other_s_edits(url: str) -> None:
    found = importlib.import_module("claude_memory").main(url)
    assert found["ours"] == (6, 6)
    acknowledged, kept = found["theirs"]
    assert acknowledged == 6
    assert kept < 6


def test_agents_of_openai_share_a_session(url: str) -> None:
    found = importlib.import_module("openai_agents_session").main(url)
    assert found["ours"] == {
        "talk": ["user", "assistant", "user", "assistant"],
        "kept": True,
        "refused": "SessionConflict",
    }
    assert not found["theirs"]["kept"]
    assert not found["theirs"]["refused"]


def test_hosts_of_google_adk_share_a_session(url: str) -> None:
    found = importlib.import_module("google_adk_session").main(url)
    assert found["ours"] == {"answers": 5, "points": 5}
    assert found["theirs"]["answers"] < 5
    assert found["theirs"]["points"] == 1


def test_an_approval_that_reaches_two_hosts_is_paid_once(url: str) -> None:
    found = importlib.import_module("agent_framework_payment").main(url)
    assert found["ours"] == {"paid": ["42 EUR"], "refused": 1}
    assert found["theirs"] == {"paid": ["42 EUR", "42 EUR"], "refused": 0}


def code_of(name: str) -> list[str]:
    """Return the lines of an example without its docstring and empty lines."""
    text = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    return [line for line in text.split('"""', 2)[2].splitlines() if line.strip()]


def test_five_lines_guard_an_application_that_loses_writes(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    found = {
        name: importlib.import_module(name).main(f"sqlite:///{tmp_path / name}.db", redis_url)
        for name in ("seats_plain", "seats_guarded")
    }
    assert found["seats_plain"]["without a seat"] == 7, "all of them sold the same one"
    assert found["seats_guarded"] == {"sold": 8, "without a seat": 0, "not counted": 0}
    plain, guarded = map(code_of, found)
    changes = SequenceMatcher(None, plain, guarded, autojunk=False).get_opcodes()
    changed = [max(a1 - a0, b1 - b0) for tag, a0, a1, b0, b1 in changes if tag != "equal"]
    assert 0 < sum(changed) <= 5
