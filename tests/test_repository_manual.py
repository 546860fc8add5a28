"""The manual as a whole: its parts, its generated reference, its words, and its README."""

from __future__ import annotations

import re
import runpy

import pytest

import interlock
from tests.repository import ROOT, files, name_of, pages, text_of

DOCS = ROOT / "docs"
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.M)
FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
GENERATED = re.compile(r"^<!-- The table is made.*<!-- The end of the table", re.M | re.S)
README_LINES = 150
DECISION_LINES = 60

WORDS = {
    *("space", "key", "record", "rule", "plan", "commit", "entry", "position", "event"),
    *("lease", "epoch", "incarnation", "run", "outcome", "session", "guard"),
}
# The words of the glossary, and what must not stand for them.  Searched in prose, not in code.
SYNONYMS = {
    r"desks?": "name the thing: Runs, files context, ...",
    r"told": "gets, receives, learns",
    r"stor(y|ies)": "scenario",
    r"places?": "position, slot, spot, where",
    r"fa[cç]ades?": "API",
    r"offsets?": "position",
    r"sequence numbers?": "position",
    r"fencing tokens?": "epoch",
    r"journals?": "log",
    r"workflows?": "run",
    r"entr(y|ies) number": "position",
}


def prose(text: str) -> str:
    """Return what a page says outside of its blocks, inline code, comments and link targets."""
    text = GENERATED.sub("", text)
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.S)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"``?[^`]+``?", "", text))


def wrong_words(name: str, text: str) -> list[str]:
    """Return the synonyms that a page uses for words of the glossary."""
    return [
        f"{name}: {match[0]!r}; say: {better}"
        for wrong, better in SYNONYMS.items()
        for match in re.finditer(rf"\b{wrong}\b", prose(text), re.I)
    ]


def test_no_page_uses_another_word_for_one_of_the_glossary() -> None:
    problems = [each for page in pages() for each in wrong_words(name_of(page), text_of(page))]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Agents are told.", 1),
        ("The façade has two stories.", 2),
        ("`told` and [a page](stories.md)\n\n```python\nplace = 1\n```", 0),
        ("<!-- not run: in another place -->\nHistory, replaced.", 0),
    ],
)
def test_wrong_words_are_found_in_prose_only(text: str, found: int) -> None:
    assert len(wrong_words("page.md", text)) == found


def test_the_glossary_holds_the_words_of_the_design() -> None:
    held = set(re.findall(r"^\| \*\*([\w ]+)\*\* \|", text_of(DOCS / "glossary.md"), re.M))
    missing = WORDS - held
    assert not missing


def test_the_reference_holds_every_public_name_and_no_other() -> None:
    shown = DIRECTIVE.findall(text_of(DOCS / "reference" / "api.md"))
    assert len(shown) == len(set(shown))
    assert set(shown) == {f"interlock.{name}" for name in interlock.__all__}


def test_the_reference_holds_the_whole_tree_of_commands() -> None:
    page = text_of(DOCS / "reference" / "commands.md")
    assert page.count("::: mkdocs-click") == 1
    assert ":module: interlock.cli\n" in page
    assert ":command: main\n" in page


def test_the_site_has_every_page_once() -> None:
    shown = re.findall(r"([\w./-]+\.md)$", text_of(ROOT / "mkdocs.yml"), re.M)
    assert sorted(shown) == sorted(name_of(page)[5:] for page in files(".md", under=["docs"]))


def test_decisions_are_short_and_listed() -> None:
    listed = text_of(DOCS / "adr" / "index.md")
    decisions = sorted((DOCS / "adr").glob("[0-9]*.md"))
    assert len(decisions) >= 10
    for path in decisions:
        assert f"({path.name})" in listed
        assert len(text_of(path).splitlines()) <= DECISION_LINES


def test_the_site_needs_no_network() -> None:
    config = text_of(ROOT / "mkdocs.yml")
    assert "font: false" in config
    assert not re.search(r"https?://", config)


def test_the_readme_is_short_and_links_into_the_manual() -> None:
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) < README_LINES
    assert len(set(re.findall(r"\]\((docs/[^)#]+\.md)", text))) >= 5
    drawn = runpy.run_path(str(DOCS / "assets" / "picture.py"))["COMMAND"]
    assert f"$ interlock {drawn} --plot" in re.sub(r"\\\n +", "", text)
    for picture in re.findall(r'(?:src|srcset)="([^"]+)"', text):
        assert (ROOT / picture).is_file(), picture
