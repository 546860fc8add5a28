"""The audit: finds the files, walks their functions, leaves out what is ignored."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from interlock.audit.buffer import buffer_findings
from interlock.audit.copies import copy_findings
from interlock.audit.expression import dotted_name
from interlock.audit.finding import Finding
from interlock.audit.flow import Walk
from interlock.audit.graph import graph_findings
from interlock.audit.project import FunctionInfo, Project, last_name
from interlock.audit.settings import Settings, ignored_by_comment
from interlock.audit.shape import shared_names
from interlock.audit.stores import Stores, load_stores
from interlock.audit.value import Site

_SKIPPED = {
    *(
        ".git",
        ".hg",
        ".venv",
        "venv",
        "node_modules",
        "__pycache__",
        ".tox",
        ".nox",
        ".mypy_cache",
        "build",
        "dist",
        "site-packages",
    ),
    *("tests", "test", "testing", "migrations", "alembic", ".eggs", "testdata"),
}
_READS = {
    *(
        "open",
        "execute_query",
        "execute_sql",
        "run_query",
        "fetch_one",
        "read_text",
        "read_bytes",
        "execute",
        "fetchrow",
        "fetchval",
        "hget",
        "hgetall",
        "find_one",
        "lrange",
        "smembers",
    ),
    *(
        "query",
        "scalar",
        "scalars",
        "filter",
        "filter_by",
        "first",
        "afirst",
        "scalar_one_or_none",
        "get_or_none",
        "get_by_id",
        "aget",
    ),
    *("get_item", "get_object", "asearch", "get_object_or_404", "read_csv", "select", "exists"),
}
_WRITES = {
    *(
        "write_text",
        "write_bytes",
        "execute",
        "executemany",
        "execute_query",
        "execute_sql",
        "run_query",
        "hset",
        "hmset",
        "setex",
        "update_one",
        "replace_one",
        "aput",
        "put",
    ),
    *(
        "put_item",
        "put_object",
        "upsert",
        "commit",
        "flush",
        "save",
        "asave",
        "aupdate",
        "to_csv",
        "dump",
        "replace",
        "exec",
    ),
}
_ONCE = re.compile(
    r"(?i)^_?(migrat|upgrade|downgrade|seed|backfill|repair|initiali[sz]ation$|(create|ensure)_default)|_migrat"
)  # run by one, once


_UNGUARDED = {"fixed-id", "unchecked-lease"}  # a lock around the call makes no difference


@dataclass
class Report:
    """What an audit found."""

    findings: list[Finding]
    files: int = 0
    lines: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # file, why
    ignored: int = 0


def python_files(paths: Iterable[str | Path], everything: bool = False) -> Iterator[Path]:
    """Yield the Python files below some paths; tests and migrations only if named themselves."""
    for path in map(Path, paths):
        if path.is_file():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(
                each
                for each in folders
                if everything
                or (
                    each not in _SKIPPED
                    and not each.startswith(".")
                    and not (each == "commands" and Path(folder).name == "management")
                )
            )
            for name in sorted(names):
                test = (
                    name.startswith("test_")
                    or name.endswith("_test.py")
                    or name in ("conftest.py", "populate.py", "seed.py")
                )
                if name.endswith(".py") and (everything or not test):
                    yield Path(folder, name)


def audit(paths: Iterable[str | Path], *, settings: Settings | None = None) -> Report:
    """Return what is found in the Python files below some paths.

    `settings`: what is left out, and stores of one's own; none by default.  Raises SettingsError.
    """
    settings = settings or Settings()
    stores = load_stores(settings.stores)
    project = Project()
    report = Report([])
    for path in python_files(paths):
        if settings.excludes(path):
            continue
        try:
            module = project.add(str(path), module_name(path), path.read_text("utf-8"))
        except (SyntaxError, ValueError, RecursionError, OSError) as problem:
            report.unreadable.append((str(path), str(problem)))
            continue
        report.files += 1
        report.lines += len(module.lines)
    lines = {module.path: module.lines for module in project.modules}
    for finding in examine(project, stores):
        finding.excerpt = lines[finding.site.file][finding.site.line - 1]
        if finding.rule in settings.ignore or ignored_by_comment(finding, lines):
            report.ignored += 1
        else:
            report.findings.append(finding)
    return report


def module_name(path: Path) -> str:
    """Return the dotted name of a file, from the outermost folder that is a package."""
    parts = [path.stem] if path.stem != "__init__" else []
    folder = path.parent
    while (folder / "__init__.py").exists() and folder.name:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) or path.parent.name


def examine(project: Project, stores: Stores) -> list[Finding]:
    """Return what is found in a project."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 6000))
    functions = [each for module in project.modules for each in module.all_functions]
    functions.sort(key=lambda each: "release" in each.node.name)  # after those that take the locks
    reading, writing = reaching(functions, stores)
    relevant = reading | writing
    walk = Walk(project, stores, frozenset(map(id, relevant)))
    found: list[tuple[FunctionInfo, Finding]] = []
    for function in functions:
        if _ONCE.search(function.node.name) or (
            function not in writing and not shared_names(function)
        ):
            continue
        for finding in walk.run(function):
            found.append((function, finding))
    lost = {(each.site.file, each.function) for _, each in found if each.rule.startswith("lost")}
    beside = [
        finding
        for module in project.modules
        for finding in (
            *graph_findings(project, module),
            *buffer_findings(module),
            *(
                each
                for each in copy_findings(module)
                if (each.site.file, each.function) not in lost
            ),
        )
    ]
    held: dict[int, list[bool]] = defaultdict(list)
    for target, locks, _ in walk.calls:
        held[id(target)].append(bool(locks))
    findings = beside + [
        finding
        for function, finding in found
        if finding.rule in _UNGUARDED or not (held[id(function)] and all(held[id(function)]))
    ]
    return _few(sorted(findings, key=lambda each: (each.site.file, each.site.line)))


def _few(findings: list[Finding]) -> list[Finding]:
    """Leave out what is found again and again because many functions call the one that changes a row."""
    seen: dict[Site, int] = defaultdict(int)
    kept = []
    for finding in findings:
        at = finding.steps[-1].site
        if finding.store == "orm" and at != finding.site:
            seen[at] += 1
        if seen[at] <= _MOST_CALLERS:
            kept.append(finding)
    return kept


def reaching(
    functions: list[FunctionInfo], stores: Stores
) -> tuple[set[FunctionInfo], set[FunctionInfo]]:
    """Return the functions that read and those that write a store, also through what they call."""
    defined: dict[str, int] = defaultdict(int)
    callers: dict[str, list[FunctionInfo]] = defaultdict(list)
    found: tuple[set[FunctionInfo], set[FunctionInfo]] = (set(), set())
    for function in functions:
        defined[function.node.name] += 1
        for name in function.called:
            callers[name].append(function)
        if function.cls is not None:
            for node in function.nodes:
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "self"
                ):
                    method = function.cls.methods.get(node.attr)
                    if method is not None and method.is_property:
                        callers[node.attr].append(function)
        for kind, touches in zip(found, _touches(function, stores), strict=True):
            if touches:
                kind.add(function)
    for kind in found:
        waiting = list(kind)
        while waiting:
            done = waiting.pop()
            if defined[done.node.name] > _MOST_NAMESAKES:
                continue
            for caller in callers.get(done.node.name, []):
                if caller not in kind:
                    kind.add(caller)
                    waiting.append(caller)
    return found


_MOST_NAMESAKES = 12
_MOST_CALLERS = 3


def _makers(function: FunctionInfo, node: ast.expr) -> list[str]:
    """Return the names of the calls that made an attribute of the object, or a global."""
    if isinstance(node, ast.Attribute) and function.cls is not None:
        made = function.cls.attributes.get(node.attr)
    elif isinstance(node, ast.Name):
        made = function.module.globals.get(node.id)
    else:
        return []
    calls = [each for each in ast.walk(made) if isinstance(each, ast.Call)] if made else []
    return [name for each in calls for name in reversed(dotted_name(each.func).split("."))]


def _touches(function: FunctionInfo, stores: Stores) -> tuple[bool, bool]:
    reads, writes = bool(function.called & _READS), bool(function.called & _WRITES)
    for node in function.nodes:
        if reads and writes:
            break
        if isinstance(node, ast.Call):
            writes |= any(each.arg == "ids" for each in node.keywords)
            if isinstance(node.func, ast.Attribute):
                writes |= reads and node.func.attr in ("add", "add_all", "create", "acreate")
                writes |= node.func.attr == "add" and "session" in ast.unparse(node.func.value)
                receiver = last_name(node.func.value) or dotted_name(node.func.value).split(".")[-1]
                names = (receiver, *_makers(function, node.func.value)) if receiver else ()
                store = stores.recognise(names, function.module.imported, node.func.attr)
                call = store.call(node.func.attr) if store is not None else None
                if call is not None:
                    reads |= call.action in ("read", "test")
                    writes |= call.action not in ("read", "test", "atomic")
                elif store is not None:
                    reads = writes = True
            elif isinstance(node.func, ast.Name):
                reads |= node.func.id.startswith(("load_", "read_", "get_"))
                writes |= node.func.id.startswith(("save_", "write_", "persist_"))
                writes |= function.is_async and node.func.id.startswith("set_")
                if node.func.id == "open":
                    mode = " ".join(
                        ast.unparse(each)
                        for each in [*node.args[1:2], *(k.value for k in node.keywords)]
                    )
                    writes |= "w" in mode or "+" in mode
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            writes |= reads and not (
                isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            )
    return reads, writes
