"""Which part of the package may import which, and what importing it costs others."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.repository import PACKAGE, Check, files, found, is_type_checking

FACADES = {
    *("_async", "_sync", "session", "settings", "cancellation", "streams", "runs", "files"),
}
BELOW_FACADES = {"core", "errors", "extras", "backends"}
PUBLIC = "interlock"  # the names that `import interlock` gives

# A part may import itself and these.
LAYERS: dict[str, set[str]] = {
    "core": set(),
    "errors": {"core"},
    "extras": {"errors"},
    "backends": {"core", "errors", "extras", "cancellation"},
    **dict.fromkeys(FACADES, FACADES | BELOW_FACADES),
    "cancellation": set(),
    PUBLIC: FACADES | BELOW_FACADES,
    "verify": {PUBLIC} | FACADES | BELOW_FACADES,
    "forensics": {"core", "errors"},
    "cli": {PUBLIC, "extras", "forensics", "server", "verify"} | FACADES,
    "adapters": {PUBLIC, "extras"} | FACADES,
    "server": {PUBLIC, "extras"} | FACADES,
}
# Files that may import more than the standard library when they are imported.
THIRD_PARTY: dict[str, set[str]] = {
    "src/interlock/adapters/autogen/": {"autogen_agentchat", "autogen_core", "pydantic"},
    "src/interlock/adapters/crewai/": {"crewai", "numpy", "pydantic"},
    "src/interlock/adapters/langgraph/": {"langchain_core", "langgraph"},
    "src/interlock/adapters/openai_agents/": {"agents"},
    "src/interlock/backends/postgres/": {"psycopg", "psycopg_pool"},
    "src/interlock/backends/redis/": {"hiredis", "redis"},
    "src/interlock/cli/": {"click", "rich"},
    "src/interlock/server/mcp/": {
        "anyio",
        "h11",
        "jsonschema",
        "mcp",
        "mcp_types",
        "starlette",
        "uvicorn",
    },
    "src/interlock/verify/pytest.py": {"pytest"},
}
# The core has no I/O, clock, randomness or threads.
IMPURE = {
    *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading"),
    *("time", "urllib", "uuid"),
}
IMPURE_CALLS = {"input", "now", "open", "print", "today", "utcnow"}


def imported(name: str, tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield each import of a file, at any depth, with the dotted name of what is imported."""
    package = name.removeprefix("src/").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def part_of(dotted: str) -> str:
    """Return the part of the package that a dotted name is in: a folder or file at its top."""
    first = dotted.split(".")[1] if "." in dotted else ""
    if first in {"", "__init__"}:
        return PUBLIC
    is_module = (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file()
    return first if is_module or first in LAYERS else PUBLIC


def layering(name: str, text: str) -> list[str]:
    """An import against the layers."""
    part = part_of(name.removeprefix("src/").removesuffix(".py").replace("/", "."))
    if part not in LAYERS:
        return [f"{name}: {part!r} is in no layer; add it to LAYERS in {__file__}"]
    return [
        f"{name}:{node.lineno}: {part} imports {dotted}; it may import {sorted(LAYERS[part])}"
        for node, dotted in imported(name, ast.parse(text))
        if dotted.split(".")[0] == "interlock" and part_of(dotted) not in {part, *LAYERS[part]}
    ]


def purity(name: str, text: str) -> list[str]:
    """I/O, a clock, randomness or threads in the core."""
    tree = ast.parse(text)
    problems = [
        f"{name}:{node.lineno}: the core is pure, and imports {dotted}"
        for node, dotted in imported(name, tree)
        if dotted.split(".")[0] in IMPURE
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            if called in IMPURE_CALLS:
                problems.append(f"{name}:{node.lineno}: the core is pure, and calls {called}()")
    return problems


def third_party(name: str, text: str) -> list[str]:
    """A dependency imported when the module is, where it should be when it is used."""
    allowed = set[str]().union(
        *(allow for start, allow in THIRD_PARTY.items() if name.startswith(start))
    )
    tree = ast.parse(text)
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)
        for inner in ast.walk(node)
    }
    return [
        f"{name}:{node.lineno}: imports {dotted} at module level; import it where it is used"
        for node, dotted in imported(name, tree)
        if id(node) not in late
        and dotted.split(".")[0] not in {"interlock", *sys.stdlib_module_names, *allowed}
    ]


CORE = "src/interlock/core"


@pytest.mark.parametrize(
    ("check", "folder"), [(layering, "src"), (purity, CORE), (third_party, "src")]
)
def test_no_import_breaks_the_layers(check: Check, folder: str) -> None:
    paths = files(".py", under=[folder])
    assert paths, f"{folder} holds no Python files"
    problems = found(check, paths)
    assert not problems, problems


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (layering, f"{CORE}/keys.py", "from interlock.errors import Invalid"),
        (layering, f"{CORE}/keys.py", "from .. import errors"),
        (layering, f"{CORE}/keys.py", "def late():\n    import interlock"),
        (layering, "src/interlock/errors.py", "import interlock.backends.drive"),
        (layering, "src/interlock/backends/drive.py", "from interlock import session"),
        (layering, "src/interlock/backends/sqlite/read.py", "from ...settings import make_writer"),
        (layering, "src/interlock/_async/space.py", "from interlock import Record"),
        (layering, "src/interlock/_async/space.py", "from interlock.verify import explore"),
        (layering, "src/interlock/verify/story.py", "from interlock.cli import main"),
        (layering, "src/interlock/cli/read.py", "from interlock.core.keys import check_key"),
        (layering, "src/interlock/server/http.py", "from interlock.backends import drive"),
        (purity, f"{CORE}/keys.py", "import time"),
        (purity, f"{CORE}/keys.py", "from os.path import join"),
        (purity, f"{CORE}/records.py", "from datetime import datetime\ndatetime.now()"),
        (third_party, "src/interlock/_async/space.py", "import click"),
        (third_party, "src/interlock/verify/picture.py", "from matplotlib.figure import Figure"),
        (third_party, "src/interlock/cli/plot.py", "try:\n    import matplotlib\nfinally:\n    0"),
    ],
)
def test_a_bad_import_is_found(check: Check, name: str, text: str) -> None:
    assert len(check(name, text)) == 1


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (layering, f"{CORE}/keys.py", "from interlock.core.outcome import Invalid"),
        (layering, f"{CORE}/keys.py", "from . import outcome"),
        (layering, "src/interlock/cli/read.py", "import interlock\nfrom interlock import Record"),
        (third_party, "src/interlock/cli/read.py", "import click"),
        (third_party, "src/interlock/verify/picture.py", "def draw():\n    import matplotlib"),
        (third_party, "src/interlock/_async/space.py", "if TYPE_CHECKING:\n    import matplotlib"),
    ],
)
def test_a_good_import_is_not(check: Check, name: str, text: str) -> None:
    assert check(name, text) == []


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
    unused = ("_async", "runs", "streams", "files", "adapters", "server", "cli", "verify")
    assert sorted(m for m in added if m.startswith(tuple(f"interlock.{n}" for n in unused))) == []
