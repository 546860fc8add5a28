"""The tables of guards and mutants: reading them, and what is wrong with them."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from posixpath import normpath
from typing import Any, NamedTuple

from tests.repository import contract_parts

HERE = Path(__file__).parent
BACKENDS = ("sqlite", "postgres", "redis")
LAYERS = ("core", *BACKENDS)
SPEC_GUARD = re.compile(r"\\\* @guard ([\w-]+) -> (\w+)")


class Wrong(Exception):
    """A table that cannot be used; says why."""


class Guard(NamedTuple):
    """A promise that some line of the code keeps.

    `specs` names its guards in `formal/` as `Spec.guard`; where there is none, `no_spec` says why.
    `test` is the test that fails without it: a node id, or the bare name of a test of the contract
    suite, which every backend runs.
    """

    name: str
    promise: str
    test: str
    specs: tuple[str, ...] = ()
    no_spec: str = ""


class Mutant(NamedTuple):
    """One guard taken out in one place: `text`, which stands once in `file`, becomes `becomes`.

    Its test fails with an assertion or a refusal, or with one of the exceptions named
    in `raises`.
    """

    name: str
    layer: str
    guard: str
    file: str
    text: str
    becomes: str
    test: str
    raises: str = ""


class Table(NamedTuple):
    """All guards by name, and all mutants.

    `excused` says why no mutant takes some guards of the specs out, `lacking` why some backends do
    not have a guard that others have, by guard and backend.
    """

    guards: dict[str, Guard]
    mutants: list[Mutant]
    excused: dict[str, str]
    lacking: dict[tuple[str, str], str]


def read(folder: Path = HERE) -> Table:
    """Read the tables of a folder.  Raises `Wrong`."""
    told = _toml(folder / "guards.toml")
    guards: dict[str, Guard] = {}
    for row in told["guard"]:
        guard = Guard(**{**row, "specs": tuple(row.get("specs", ()))})
        if guard.name in guards:
            raise Wrong(f"guards.toml: {guard.name} is there twice")
        guards[guard.name] = guard
    excused = {spec: row["why"] for row in told.get("excused", ()) for spec in row["specs"]}
    lacking = {
        (row["guard"], backend): row["why"]
        for row in told.get("lacking", ())
        for backend in row["backends"]
    }
    mutants = [each for layer in LAYERS for each in _layer(folder, layer, guards)]
    return Table(guards, mutants, excused, lacking)


def _layer(folder: Path, layer: str, guards: dict[str, Guard]) -> Iterator[Mutant]:
    path = folder / f"{layer}.toml"
    if not path.exists():
        return
    told = _toml(path)
    for row in told["mutant"]:
        guard = guards.get(row["guard"])
        if guard is None:
            raise Wrong(f"{path.name}: {row['guard']} is no guard of guards.toml")
        place = f"-{row['place']}" if "place" in row else ""
        yield Mutant(
            f"{layer}/{guard.name}{place}",
            layer,
            guard.name,
            normpath(f"{told['folder']}/{row['file']}"),
            row["text"],
            row["becomes"],
            _node(row.get("test", guard.test), layer),
            row.get("raises", ""),
        )


def _node(test: str, layer: str) -> str:
    """Return the whole name of a test: one of the contract suite runs on the layer's store."""
    if "::" in test:
        return test
    store = "sqlite" if layer == "core" else layer
    name, _, ids = test.partition("[")
    return f"tests/contract/test_{suite_part(name)}.py::{name}[{store}-{ids or 'sync]'}"


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def mutated(mutant: Mutant, source: str) -> str:
    """Return a source without the guard.  Raises `Wrong` where the table is out of date."""
    found = source.count(mutant.text)
    if found != 1:
        raise Wrong(f"{mutant.name}: {mutant.file} has {found} times, not once: {mutant.text!r}")
    return source.replace(mutant.text, mutant.becomes)


def problems(table: Table, root: Path) -> list[str]:
    """Return what is wrong with a table: texts, tests and names that are not there."""
    wrong = []
    names = [mutant.name for mutant in table.mutants]
    wrong += [f"{name}: two mutants of this name" for name in {*names} if names.count(name) > 1]
    held = {mutant.guard for mutant in table.mutants}
    wrong += [f"{name}: no mutant takes it out" for name in table.guards if name not in held]
    wrong += _missing(table)
    for guard in table.guards.values():
        if bool(guard.specs) == bool(guard.no_spec):
            wrong.append(f"{guard.name}: name its guards in the specs, or say why there is none")
    for mutant in table.mutants:
        try:
            after = mutated(mutant, _text(root / mutant.file))
            if mutant.file.endswith(".py"):
                compile(after, mutant.file, "exec")
        except (Wrong, SyntaxError, OSError) as problem:
            wrong.append(f"{mutant.name}: {problem}")
        if mutant.text == mutant.becomes:
            wrong.append(f"{mutant.name}: it changes nothing")
        if not has_test(root, mutant.test):
            wrong.append(f"{mutant.name}: there is no {mutant.test}")
    return wrong


def _missing(table: Table) -> list[str]:
    """Return the backends without a mutant of a guard that another backend has."""
    held = {(mutant.guard, mutant.layer) for mutant in table.mutants}
    asked = {guard for guard, layer in held if layer in BACKENDS}
    wanted = {(guard, backend) for guard in asked for backend in BACKENDS}
    return [
        *(f"{guard}: no mutant of {b}, and no reason" for guard, b in sorted(wanted - held)
          if (guard, b) not in table.lacking),
        *(f"{guard}: {b} has it, or lacks what nobody has" for guard, b in sorted(table.lacking)
          if (guard, b) not in wanted - held),
    ]  # fmt: skip


def spec_guards(folder: Path) -> dict[str, str]:
    """Return the invariant of each guard of the specs, by `Spec.guard`."""
    return {
        f"{path.stem}.{name}": invariant
        for path in sorted(folder.glob("*.tla"))
        for name, invariant in SPEC_GUARD.findall(_text(path))
    }


def spec_problems(table: Table, folder: Path) -> list[str]:
    """Return the guards of the specs that the table does not have, and the reverse."""
    specs = spec_guards(folder)
    named = {spec for guard in table.guards.values() for spec in guard.specs}
    return [
        *(f"{spec}: no guard names it, and no reason is given" for spec in specs
          if spec not in named and spec not in table.excused),
        *(f"{spec}: no spec has it" for spec in sorted(named | {*table.excused} - {*specs})
          if spec not in specs),
        *(f"{spec}: it has a guard and an excuse" for spec in sorted(named & {*table.excused})),
    ]  # fmt: skip


def has_test(root: Path, node: str) -> bool:
    """Say whether a test is there, by reading its file."""
    name, _, rest = node.partition("::")
    path, test = root / name, rest.split("[")[0].split("::")[-1]
    return path.is_file() and test in _functions(_text(path))


def suite_part(test: str) -> str:
    """Return the part of the contract suite that has a test, "" where none has."""
    found = (part for part, path in contract_parts().items() if test in _functions(_text(path)))
    return next(found, "")


@cache
def _functions(text: str) -> frozenset[str]:
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
