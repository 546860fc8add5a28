"""The manual's page on CrewAI and its example, run where CrewAI is installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.documents import blocks, run_page
from tests.repository import ROOT, text_of

PAGE = ROOT / "docs" / "how-to" / "crewai.md"
ELSEWHERE = "<!-- not run: it needs CrewAI; `make crewai` runs it -->"


def test_what_the_page_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    text = text_of(PAGE).replace(ELSEWHERE, "")
    shown = [block for block in blocks(text) if block.language == "python"]
    assert [block.line for block in shown if block.not_run is not None] == []
    assert run_page(text, "docs/how-to/crewai.md", request.getfixturevalue) >= len(shown) >= 4


def test_the_example_loses_with_one_persistence_and_keeps_with_the_other(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module("crewai_flow")
    found = example.main(url)
    everything = sorted(example.AGENTS)
    assert len(found["CrewAI's own"]["findings"]) < 5
    assert found["Interlock, told"]["findings"] == everything
    assert found["Interlock, told"]["thoughts"] >= 5
    assert found["Interlock, in turn"] == {"findings": everything, "thoughts": 5}
