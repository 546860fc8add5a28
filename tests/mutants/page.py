"""The table of guards in `docs/explanation/guarantees.md`, made from the tables here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.mutants.table import Guard, Mutant, Table, Wrong, spec_guards, suite_part

PAGE = Path("docs") / "explanation" / "guarantees.md"
BEGIN = "<!-- The table is made by `python -m tests.mutants --write`. -->"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "redis": "Redis"}
END = "<!-- The end of the table. -->"


def write(table: Table, root: Path) -> None:
    """Put the table into the page."""
    path = root / PAGE
    path.write_text(with_table(path.read_text(encoding="utf-8"), table, root), encoding="utf-8")


def with_table(page: str, table: Table, root: Path) -> str:
    """Return a page whose table is up to date.  Raises `Wrong` where it has no place for one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Wrong(f"{PAGE} has no {BEGIN} or no {END}")
    whole = f"{before}{BEGIN}\n\n{rows(table, root)}\n\n{END}{after}"
    return re.sub(r"\b\w+( mutants, each found)", rf"{len(table.mutants)}\1", whole)


def rows(table: Table, root: Path) -> str:
    """Return the table: a row a guard, then the guards of specs that no code stands for."""
    invariants = spec_guards(root / "formal")
    lines = [
        "| guard | promise | in the specs | where it is kept: the mutant without it | goes red |",
        "|---|---|---|---|---|",
    ]
    for guard in table.guards.values():
        mutants = [mutant for mutant in table.mutants if mutant.guard == guard.name]
        kept = "<br>".join(f"{place(each, root)}: `{each.name}`" for each in mutants)
        tests = "<br>".join(dict.fromkeys(shown(each) for each in mutants))
        specs = in_specs(guard, invariants)
        lines.append(f"| {guard.name} | {guard.promise} | {specs} | {kept} | {tests} |")
    lines += ["", "Backends that do not have a guard:", ""]
    without: dict[tuple[str, str], list[str]] = {}
    for (guard_name, backend), why in table.lacking.items():
        without.setdefault((guard_name, why), []).append(NAMES[backend])
    lines += [f"- {name} ({', '.join(who)}): {why}." for (name, why), who in without.items()]
    lines += ["", "No line of the code stands for these guards of specs:", ""]
    reasons: dict[str, list[str]] = {}
    for spec, why in table.excused.items():
        reasons.setdefault(why, []).append(f"`{spec}`")
    lines += [f"- {', '.join(specs)}: {why}." for why, specs in reasons.items()]
    return "\n".join(lines)


def in_specs(guard: Guard, invariants: dict[str, str]) -> str:
    """Return the guards of the specs that a guard stands for, with their invariants."""
    named = (f"`{spec}`: {invariants.get(spec, '?')}" for spec in guard.specs)
    return "<br>".join(named) if guard.specs else f"none: {guard.no_spec}"


def shown(mutant: Mutant) -> str:
    """Return the test of a mutant as the page shows it."""
    file, _, rest = mutant.test.partition("::")
    test = rest.split("[")[0]
    part = suite_part(test)
    return f"suite `{part}`: `{test}`" if part else f"`{file}`: `{test}`"


def place(mutant: Mutant, root: Path) -> str:
    """Return where a mutant's text stands: the function and the file."""
    source = (root / mutant.file).read_text(encoding="utf-8")
    name = _function(mutant.file, source, source.index(mutant.text) + len(mutant.text))
    file = mutant.file.removeprefix("src/interlock/").removeprefix("backends/")
    return f"`{name}` in `{file}`" if name else f"`{file}`"


def _function(file: str, source: str, at: int) -> str:
    """Return the name of what a place in a source belongs to, "" where it is in no function."""
    before = source[:at]
    if file.endswith(".py"):
        return _innermost(ast.parse(source), before.rstrip("\n").count("\n") + 1)
    header = {
        ".sql": r"^(?:CREATE FUNCTION interlock\.|-- name: )(\w+)",
        ".lua": r"^( *)(?:local )?function ([\w.]+)\(",
    }[Path(file).suffix]
    found = [*re.finditer(header, before, re.M)]
    if not found or (file.endswith(".lua") and _ended(found[-1], before)):
        return ""
    return found[-1][found[-1].re.groups]


def _ended(header: re.Match[str], before: str) -> bool:
    return re.search(rf"^{header[1]}end$", before[header.end() :], re.M) is not None


def _innermost(tree: ast.AST, line: int, prefix: str = "") -> str:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.lineno <= line <= (node.end_lineno or 0):
            name = f"{prefix}{node.name}"
            return _innermost(node, line, f"{name}.") if isinstance(node, ast.ClassDef) else name
    return prefix.rstrip(".")
