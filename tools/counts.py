"""How big the house is, and how many rooms one write crosses: `python -m tools.counts [--json]`.

Counted over `src/interlock`.  Files under a folder `_sync` are generated.  A path (update, effect,
merge) is one call, warmed up, without contention, on SQLite: the files whose code runs, and how
often a call, or a generator resumed, is of another file than the one before it.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import grimp

import interlock

PACKAGE = Path(interlock.__file__).parent
# Methods of named tuples begin with an underscore to be out of the way of fields.
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}
_IN_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def sources() -> dict[Path, str]:
    """Return the text of every Python file of the package."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def sizes(texts: dict[Path, str]) -> Iterator[tuple[str, int]]:
    """Yield files and lines, by hand and generated, and the lines with `Any` or `Plan(...)`."""
    generated = {path: text for path, text in texts.items() if "_sync" in path.parts}
    by_hand = {path: text for path, text in texts.items() if path not in generated}
    for name, group in (("hand-written", by_hand), ("generated", generated)):
        yield f"files, {name}", len(group)
        yield f"lines, {name}", sum(len(text.splitlines()) for text in group.values())
    lines = [line for text in by_hand.values() for line in text.splitlines()]
    yield "lines with Any, hand-written", sum(bool(re.search(r"\bAny\b", line)) for line in lines)
    yield (
        "constructions of Plan, hand-written",
        sum(
            isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Plan"
            for text in by_hand.values()
            for node in ast.walk(ast.parse(text))
        ),
    )


def private_reaches(text: str) -> Iterator[str]:
    """Yield each use of an underscore's name that this module does not define.

    Those of `self` and `cls` come from a base class in another module.
    """
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    modules = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    own = {node.name for node in nodes if isinstance(node, (*_IN_FUNCTIONS[:2], ast.ClassDef))}
    own |= {node.id for node in nodes if isinstance(node, ast.Name)}
    own |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) in {"self", "cls"}
    }
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield from (each.name for each in node.names if re.match("_[^_]", each.name))
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            outside = ast.unparse(node.value) in modules  # os._exit, sys._getframe
            if node.attr not in own | NAMED_TUPLE and not outside:
                yield ast.unparse(node)


def imports(texts: dict[Path, str], typing: bool) -> dict[str, set[str]]:
    """Return who imports whom when imported; with `typing` under `TYPE_CHECKING`, too."""
    graph = grimp.build_graph("interlock", exclude_type_checking_imports=not typing, cache_dir=None)
    late: dict[str, set[int]] = {}
    for path, text in texts.items():
        name = ".".join(["interlock", *path.relative_to(PACKAGE).with_suffix("").parts])
        late[name.removesuffix(".__init__")] = {
            line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, _IN_FUNCTIONS)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
    return {
        importer: {
            imported
            for imported in graph.find_modules_directly_imported_by(importer)
            for details in graph.get_import_details(importer=importer, imported=imported)
            if details["line_number"] not in late[importer]
        }
        for importer in graph.modules
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        waiting, found = [start], set[str]()
        while waiting:
            for each in graph[waiting.pop()] - found:
                found.add(each)
                waiting.append(each)
        reached[start] = found
    groups = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    return sorted(map(list, groups))


def crossed(call: Callable[[], Any]) -> tuple[list[str], int]:
    """Return the files of the package that a call runs, and how often it changes files."""
    seen: list[str] = []

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if name.startswith(str(PACKAGE)) and seen[-1:] != [name]:
            seen.append(name)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    files = sorted({str(Path(each).relative_to(PACKAGE)) for each in seen})
    return files, len(seen) - 1


def paths(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Return what one update, one effect of a run and one merge of a coordinator cross."""
    rules = {"contrib/*": interlock.merged("append")}
    with interlock.open(f"sqlite:///{folder / 'counts.db'}", "s", "a", rules=rules) as space:
        space.create("k", 0)
        found = {}

        def update() -> None:
            space.update("k", lambda n: n + 1)

        update()
        found["update"] = crossed(update)
        with space.run("trip") as run:
            run.effect("first", lambda key: 1)
            found["run.effect"] = crossed(lambda: run.effect("second", lambda key: 2))
            run.result = None
        coordinator = space.coordinator(
            "total", source="contrib/", merge=lambda total, each: total + each, initial=0
        )
        for _ in range(2):
            space.append("contrib/a", 1)
            found["coordinator merge"] = crossed(coordinator.catch_up)
        assert space.read("total").value == 2
    return found


def counted(details: bool = False) -> dict[str, Any]:
    """Return every figure, by name; with `details` also what was counted."""
    texts = sources()
    figures: dict[str, Any] = dict(sizes(texts))
    reaches = {path: list(private_reaches(text)) for path, text in texts.items()}
    every = [each for found in reaches.values() for each in found]
    inherited = [each for each in every if re.match(r"(self|cls)\._\w+$", each)]
    figures["private reaches, into other objects"] = len(every) - len(inherited)
    figures["private reaches, inherited"] = len(inherited)
    rings = {
        "circles of imports": circles(imports(texts, typing=False)),
        "circles with those for types": circles(imports(texts, typing=True)),
    }
    for name, found in rings.items():
        figures[name] = len(found)
        figures[f"{name}: modules in them"] = sum(map(len, found))
    with tempfile.TemporaryDirectory() as folder:
        ways = paths(Path(folder))
    for name, (files, changes) in ways.items():
        figures[f"{name}: files"] = len(files)
        figures[f"{name}: changes of file"] = changes
    if details:
        figures["details"] = {
            "private reaches": {
                str(path.relative_to(PACKAGE)): each for path, each in reaches.items() if each
            },
            **rings,
            **{name: files for name, (files, _) in ways.items()},
        }
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--details", action="store_true", help="also what was counted, as JSON")
    options = parser.parse_args()
    figures = counted(options.details)
    if options.json or options.details:
        print(json.dumps(figures, indent=2))
        return
    for name, figure in figures.items():
        print(f"{name:<50}{figure:>8,}")


if __name__ == "__main__":
    main()
