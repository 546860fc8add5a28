"""Every example runs, on every kind of store, and ends as it says."""

from __future__ import annotations

import importlib

import pytest

from tests.processes.writers import Place
from tests.repository import ROOT, files, name_of

NAMES = (
    "approval",
    "langgraph_memory",
    "langgraph_thread",
    "mcp_two_clients",
    "payment_reconciliation",
    "pipeline",
)
ELSEWHERE = (  # tested where their framework is: `tests/crewai`, `tests/adapters`
    "autogen_teams",
    "crewai_flow",
    "openai_agents_session",
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
    found = importlib.import_module("pipeline").main(url)
    assert found["text"].splitlines() == [
        "fencing: who lost one is refused, whatever its clock says",
        "leases: who holds one may write, until it runs out",
        "logs: what happened can be read again, in order",
    ]
    researched = {f"article-1.{topic}": "researcher" for topic in ("fencing", "leases", "logs")}
    others = {"article-1": "planner", "article-1.text": "writer"}
    assert found["agents"] == researched | others
    assert found["notes"] == 3


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


def test_parallel_langgraph_nodes_keep_their_notes(url: str) -> None:
    found = importlib.import_module("langgraph_memory").main(url)
    assert len(found["LangGraph"]) == 1
    assert found["Interlock"] == [f"from agent-{n}" for n in range(8)]


def test_a_langgraph_thread_keeps_all_messages_and_pays_once(url: str) -> None:
    found = importlib.import_module("langgraph_thread").main(url)
    assert found["Interlock"] == {"messages": 12, "payments": 1}
    assert found["LangGraph"] == {"messages": 4, "payments": 2}
