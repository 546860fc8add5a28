"""What no linter sees of the layers: what the core calls, and what `import interlock` loads.

Who may import what is declared in pyproject.toml and checked by import-linter, in `make lint`.  It
sees no calls (builtins, `datetime.now`), and not what a new process has really loaded.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.repository import files, found

IMPURE_CALLS = {"input", "now", "open", "print", "today", "utcnow"}


def impure_call(name: str, text: str) -> list[str]:
    """A call for a clock or for I/O."""
    return [
        f"{name}:{node.lineno}: the core is pure, and calls {ast.unparse(node.func)}()"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPURE_CALLS
    ]


def test_the_core_reads_no_clock_and_does_no_io() -> None:
    paths = files(".py", under=["src/interlock/core"])
    assert paths
    problems = found(impure_call, paths)
    assert not problems, problems


@pytest.mark.parametrize(
    ("text", "problems"), [("datetime.now()", 1), ("f(open('x'))", 1), ("now = record.at", 0)]
)
def test_an_impure_call_is_found(text: str, problems: int) -> None:
    assert len(impure_call("core/records.py", text)) == problems


def modules_after(statement: str) -> set[str]:
    """Return what a new Python has imported after one statement."""
    shown = f"{statement}\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ran.stdout.split())


def test_importing_interlock_imports_nothing_that_it_does_not_need() -> None:
    added = modules_after("import interlock") - modules_after("pass")
    assert "interlock._sync.space" in added
    tops = {module.split(".")[0] for module in added}
    assert tops - sys.stdlib_module_names == {"interlock"}
    heavy = {
        "asyncio",
        "http",
        "importlib.metadata",
        "multiprocessing",
        "unittest",
        "urllib.request",
    }
    assert sorted(added & heavy) == []
    assert sorted(m for m in added if m.startswith(("interlock.cli", "interlock.verify"))) == []
