"""Every public name, command and option is documented, and what the manual shows really runs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

import interlock
from interlock.cli import main
from interlock.verify import frameworks
from tests.documents import blocks, commands, make_targets, run_page
from tests.repository import ROOT, name_of, pages, text_of

INLINE = re.compile(r"``?([^`]+)``?")


def code_of(text: str) -> str:
    """Return what a page shows as code: its blocks and what stands between backticks."""
    prose = re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.M | re.S)
    return "\n".join([*(block.text for block in blocks(text)), *INLINE.findall(prose)])


def mentions(code: str, name: str) -> bool:
    """Say whether code has a name as a whole word."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", code) is not None


def public_names(package: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names of `__all__`, and the public methods and properties of its classes."""
    for name in package.__all__:
        value = getattr(package, name)
        yield name, value
        for member, item in inspect.getmembers(value) if inspect.isclass(value) else ():
            ours = _module_of(item).startswith(package.__name__)
            if ours and not member.startswith("_"):
                yield f"{name}.{member}", item


def _module_of(item: Any) -> str:
    inner = item.fget if isinstance(item, property) else item
    made_here = inspect.isroutine(inner) or inspect.isclass(inner)
    return str(getattr(inner, "__module__", "")) if made_here else ""


def undocumented_names(package: Any, manual: str) -> list[str]:
    """Return the public names with no docstring, or that the manual neither has nor generates."""
    code = code_of(manual)
    made = set(re.findall(r"^::: ([\w.]+)$", manual, re.M))  # from docstrings, members included
    names = list(public_names(package))
    return [f"{name} has no docstring" for name, item in names if not inspect.getdoc(item)] + [
        f"{name} is in no page"
        for name, _ in names
        if not made & {package.__name__, f"{package.__name__}.{name.split('.')[0]}"}
        and not mentions(code, name.split(".")[-1])
    ]


def walked(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, each with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, f"{path} lists {name} and does not have it"
            yield from walked(below, f"{path} {name}")


def undocumented_commands(group: click.Command, page: str) -> list[str]:
    """Return the commands with no help and the commands and options that the page does not have."""
    code = code_of(page)
    problems = []
    for path, command in walked(group, "interlock"):
        if not command.help:
            problems.append(f"{path} has no help text")
        if not mentions(code, path):
            problems.append(f"{path} is not in the page")
        options = [each for each in command.params if isinstance(each, click.Option)]
        problems += [
            f"{path} {flag} is not in the page"
            for option in options
            for flag in option.opts
            if not mentions(code, flag)
        ]
    return problems


ROW = re.compile(r"^\| (?!scenario)(.+) \|$", re.M)
NODE = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows_without_tests(page: str) -> list[str]:
    """Return the rows of its tables that name no test, or one that is not below `tests`.

    A row may say "not tested" of ours, or that the question does not arise: a dash.
    """
    problems = []
    for row in ROW.findall(page):
        cells = [cell.strip() for cell in row.split("|")]
        if "::" not in row and cells[3] not in {"not tested", "-"}:
            problems.append(f"{cells[0]} names no test")
        problems += [
            f"{cells[0]} names {path}::{name}, which does not exist"
            for path, name in NODE.findall(row)
            if name not in defined_in(ROOT / "tests" / path)
        ]
    return problems


@cache
def defined_in(path: Path) -> set[str]:
    """Return the functions that a file has, without importing it; none if there is no file."""
    parsed = ast.parse(text_of(path)) if path.is_file() else ast.Module([], [])
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in parsed.body if isinstance(each, functions)}


def test_every_row_on_what_frameworks_keep_names_tests_that_exist() -> None:
    page = text_of(ROOT / "docs" / "reference" / "frameworks.md")
    assert len(ROW.findall(page)) > 60
    problems = rows_without_tests(page)
    assert not problems, "\n".join(problems)


def test_every_public_name_has_a_docstring_and_is_in_the_manual() -> None:
    manual = "\n\n".join(text_of(page) for page in pages())
    packages = (interlock, frameworks)
    problems = [each for package in packages for each in undocumented_names(package, manual)]
    assert not problems, "\n".join(problems)


def test_every_command_and_option_is_in_the_page_on_the_command_line() -> None:
    problems = undocumented_commands(main, text_of(ROOT / "docs" / "reference" / "cli.md"))
    assert not problems, "\n".join(problems)


# They start many commands, or import a framework.
SLOW = {"cli.md", "vectors.md", "torture.md", "mcp.md", "langgraph.md", "langgraph-store.md"}
SLOW |= {"openai-agents.md", "autogen.md", "claude.md", "frameworks-kit.md", "fastmcp.md"}
SLOW |= {"pydantic-ai.md", "llama-index.md", "strands.md"}
SLOW |= {"google-adk.md", "microsoft-agent-framework.md"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in pages()],
    ids=name_of,
)
def test_what_a_page_shows_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = [block for block in blocks(text_of(page)) if block.language in {"python", "console"}]
    ran = run_page(text_of(page), name_of(page), request.getfixturevalue)
    assert ran == len([block for block in shown if block.not_run is None])


def test_every_make_target_that_a_page_names_exists() -> None:
    known = make_targets(text_of(ROOT / "Makefile"))
    assert {"demo", "test", "quick"} <= known
    for page in pages():
        named = set(re.findall(r"\bmake ([a-z][a-z-]*)", code_of(text_of(page))))
        assert named <= known, f"{name_of(page)} names targets that the Makefile does not have"


# The checks themselves, tried on pages and packages that are wrong.


def run(text: str) -> int:
    """Run a page that uses no fixtures."""
    fixtures: dict[str, Any] = {}
    return run_page(text, "page.md", fixtures.__getitem__)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\n", "never closed"),
        ("<!-- not run -->\n```python\n1\n```", "no reason"),
        ("```python\nassert 1 == 2, 'wrong'\n```", "wrong"),
        ("```python\ndef test_it():\n    assert 1 == 2, 'wrong'\n```", "wrong"),
        ("```console\n$ make nothing-of-the-kind\n```", "no target"),
        ("```console\n$ python -c 1\n```", "not run: reason"),
        ("```console\n$ interlock no-such-command\n```", "exit code 2, not 0"),
        ("<!-- exit: 3 -->\n```console\n$ interlock --version\n```", "exit code 0, not 3"),
    ],
)
def test_a_page_that_does_not_work_is_found(text: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run(text)


def test_the_blocks_of_a_page_share_names_and_say_their_lines() -> None:
    assert run("```python\na = 1\n```\n\n```text\nno\n```\n\n```python\nassert a == 1\n```") == 2
    with pytest.raises(ZeroDivisionError) as caught:
        run("one\n\n```python\na = 1\n1 / 0\n```")
    assert caught.traceback[-1].lineno + 1 == 5


def test_comments_apply_to_the_next_block_only() -> None:
    assert run("<!-- not run: it never ends -->\n\n```python\n1 / 0\n```") == 0
    first, second = blocks("<!-- exit: 2 -->\n```console\n$ a\n```\n\n```console\n$ b\n```")
    assert (first.exit_code, second.exit_code) == (2, 0)


def test_commands_may_go_on_over_several_lines() -> None:
    (block,) = blocks("```console\n$ interlock get \\\n    key\nthe output\n$ make test\n```")
    assert commands(block) == ["interlock get key", "make test"]


def test_commands_that_change_the_machine_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("```console\n$ git init here\n$ make test\n```") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_names_no_test_is_found() -> None:
    head = "| scenario | expected | default | ours | tests |\n|---|---|---|---|---|\n"
    here = "test_repository_docs.py::test_a_row_that_names_no_test_is_found"
    good = f"| a | 1 | 0 | 1 | `{here}` |\n| b | 1 | 0 | not tested | |\n| c | - | - | - | |\n"
    assert rows_without_tests(head + good) == []
    bad = f"| d | 1 | not tested | 1 | |\n| e | 1 | 0 | 1 | `{here}`<br>`no.py::test_b` |\n"
    assert rows_without_tests(head + bad) == [
        "d names no test",
        "e names no.py::test_b, which does not exist",
    ]
    assert rows_without_tests(f"| f | 1 | 0 | 1 | `{here}_not` |") == [
        f"f names {here}_not, which does not exist"
    ]


def test_an_undocumented_name_is_found() -> None:
    class Thing:
        """Does a thing."""

        def told(self) -> None:
            """Tell."""

        def untold(self) -> None:
            pass

    package = SimpleNamespace(__name__=__name__, __all__=["Thing"], Thing=Thing)
    assert undocumented_names(package, "`Thing` and `told()`, not untold") == [
        "Thing.untold has no docstring",
        "Thing.untold is in no page",
    ]
    assert undocumented_names(package, f"::: {__name__}.Thing") == ["Thing.untold has no docstring"]


def test_an_undocumented_option_is_found() -> None:
    @click.group(help="All.")
    def group() -> None: ...

    @group.command()
    @click.option("--deep")
    @click.option("-w", "--wide")
    def look() -> None: ...

    assert undocumented_commands(group, "`interlock` has `--deep-down` and `-w`") == [
        "interlock look has no help text",
        "interlock look is not in the page",
        "interlock look --deep is not in the page",
        "interlock look --wide is not in the page",
    ]
