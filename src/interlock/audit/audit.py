"""The audit: finds the files, walks their functions, leaves out what is ignored."""

from __future__ import annotations

import ast
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from interlock.audit.expression import dotted_name
from interlock.audit.finding import Finding
from interlock.audit.flow import Walk, shared_names
from interlock.audit.project import FunctionInfo, Project, last_name
from interlock.audit.stores import Stores, load_stores

_SKIPPED = {
    *(".git", ".hg", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".nox", ".mypy_cache", "build", "dist", "site-packages"),
    *("tests", "test", "testing", "migrations", "alembic", ".eggs", "testdata"),
}
_STRONG = {
    *("open", "read_text", "write_text", "read_bytes", "write_bytes", "execute", "executemany", "fetchrow", "fetchval", "hget"),
    *("hgetall", "hset", "hmset", "setex", "find_one", "update_one", "replace_one", "lrange", "smembers", "json", "pipeline"),
    *("query", "scalar", "scalars", "filter", "filter_by", "first", "scalar_one_or_none", "get_or_none", "get_by_id", "aget"),
    *("aput", "put", "get_item", "put_item", "get_object", "put_object", "upsert", "asearch", "commit", "with_for_update"),
    *("get_object_or_404", "setnx", "watch", "acquire", "read_csv", "to_csv", "replace_one", "lock"),
}


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
                each for each in folders if everything or each not in _SKIPPED and not each.startswith(".")
            )
            for name in sorted(names):
                test = name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"
                if name.endswith(".py") and (everything or not test):
                    yield Path(folder, name)


def audit(paths: Iterable[str | Path], *, stores: Stores | None = None) -> Report:
    """Return what is found in the Python files below some paths."""
    project = Project()
    report = Report([])
    for path in python_files(paths):
        try:
            source = path.read_text("utf-8", errors="strict")
            module = project.add(str(path), module_name(path), source)
        except (SyntaxError, ValueError, RecursionError, OSError) as problem:
            report.unreadable.append((str(path), str(problem)))
            continue
        report.files += 1
        report.lines += len(module.lines)
    report.findings = examine(project, stores or load_stores())
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
    relevant = relevant_functions(functions, stores)
    walk = Walk(project, stores, frozenset(map(id, relevant)))
    found: list[tuple[FunctionInfo, Finding]] = []
    for function in functions:
        if id(function) in {id(each) for each in ()} or (function not in relevant and not shared_names(function)):
            continue
        for finding in walk.run(function):
            found.append((function, finding))
    held: dict[int, list[bool]] = defaultdict(list)
    for target, locks, _ in walk.calls:
        held[id(target)].append(bool(locks))
    findings = [
        finding
        for function, finding in found
        if not (held[id(function)] and all(held[id(function)]))
    ]
    for finding in findings:
        module = next(each for each in project.modules if each.path == finding.site.file)
        finding.excerpt = module.lines[finding.site.line - 1]
    return sorted(findings, key=lambda each: (each.site.file, each.site.line))


def relevant_functions(functions: list[FunctionInfo], stores: Stores) -> set[FunctionInfo]:
    """Return the functions that touch a store, themselves or through what they call."""
    by_name: dict[str, list[FunctionInfo]] = defaultdict(list)
    callers: dict[str, list[FunctionInfo]] = defaultdict(list)
    relevant: set[FunctionInfo] = set()
    waiting: list[FunctionInfo] = []
    for function in functions:
        by_name[function.node.name].append(function)
        for name in function.called:
            callers[name].append(function)
        if _touches(function, stores):
            relevant.add(function)
            waiting.append(function)
    while waiting:
        done = waiting.pop()
        for caller in callers.get(done.node.name, []):
            if caller not in relevant:
                relevant.add(caller)
                waiting.append(caller)
    return relevant


def _touches(function: FunctionInfo, stores: Stores) -> bool:
    if function.called & _STRONG:
        return True
    for node in ast.walk(function.node):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                receiver = last_name(node.func.value) or dotted_name(node.func.value).split(".")[-1]
                names = (receiver,) if receiver else ()
                if stores.recognise(names, function.module.imported, node.func.attr):
                    return True
            elif isinstance(node.func, ast.Name) and node.func.id.startswith(("load_", "save_")):
                return True
    return False
