"""The commands for rules: show, check, apply, doc.  And `machine draw`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console

import interlock
from interlock.cli.common import compact, imported, reported, store_command
from interlock.cli.table import DataTable
from interlock.extras import NotInstalled

_PICTURES = ("svg", "png")


@click.group()
def rules() -> None:
    """Show, check and change how keys may be written."""


@store_command(reads=True)
def show(space: interlock.Space, as_json: bool) -> None:
    """Print the rules in force."""
    if as_json:
        click.echo(compact({name: rule.to_json() for name, rule in sorted(space.rules.items())}))
        return
    if not space.rules:
        click.echo("no rules: every key is guarded()")
    for pattern, rule in sorted(space.rules.items()):
        click.echo(f"{pattern}: {interlock.describe_rule(rule)}")


@store_command(reads=True)
@click.argument("file")
def check(space: interlock.Space, as_json: bool, file: str) -> None:
    """Say whether the rules in FILE could be applied, and what would change.

    FILE is JSON as `rules show --json` prints it, or module:NAME of a mapping in Python code.
    """
    wanted = read_rules(file)
    space.apply_rules(wanted, dry_run=True)
    _tell(space.rules, wanted, as_json, "would be ")


@store_command(reads=False)
@click.argument("file")
def apply(space: interlock.Space, as_json: bool, file: str) -> None:
    """Put the rules in FILE in place of those that the space has, in one logged commit.

    FILE is JSON as `rules show --json` prints it, or module:NAME of a mapping in Python code.
    """
    before = space.rules
    wanted = read_rules(file)
    space.apply_rules(wanted)
    _tell(before, wanted, as_json, "")


@store_command(reads=True)
def doc(space: interlock.Space, as_json: bool) -> None:
    """Print which keys are private, owned, shared, merged, leased or bound to a machine."""
    rows = [_documented(pattern, rule) for pattern, rule in sorted(space.rules.items())]
    if as_json:
        click.echo(compact(rows))
        return
    table = DataTable("keys", "kind", "who writes", "how")
    for row in rows:
        table.add_row(row["keys"], row["kind"], row["who_writes"], row["how"])
    table.add_row("all others" if rows else "all", "shared", "everybody", "from a record they read")
    Console().print(table)


@click.group()
def machine() -> None:
    """State machines."""


@click.command()
@click.argument("name")
@click.option("--store", envvar="INTERLOCK_STORE", help="Where a machine of the rules is.")
@click.option("--space", envvar="INTERLOCK_SPACE", default="default", show_default=True)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "mermaid", "dot", *_PICTURES]),
    default="text",
    show_default=True,
)
def draw(name: str, store: str | None, space: str, kind: str) -> None:
    """Draw the machine NAME from its table.

    NAME is a machine of the store's rules, `booking` or `agent-lifecycle`, or module:NAME of a
    machine in Python code.  A picture (svg, png) is made by Graphviz, which must be installed.
    """
    with reported(False):
        machine = named_machine(name, store, space)
        if kind in _PICTURES:
            click.echo(_picture(interlock.draw_machine(machine, "dot"), kind), nl=False)
        else:
            click.echo(interlock.draw_machine(machine, kind))


def _picture(source: str, kind: str) -> bytes:
    """Return what Graphviz draws.  Raises NotInstalled, Unavailable."""
    program = shutil.which("dot")
    if program is None:
        raise NotInstalled(
            f"--format {kind} needs Graphviz, and its program 'dot' was not found: install it "
            "('apt-get install graphviz', 'brew install graphviz'), or use --format mermaid"
        )
    drawn = subprocess.run([program, f"-T{kind}"], input=source.encode(), capture_output=True)
    if drawn.returncode:
        said = drawn.stderr.decode(errors="replace").strip()
        raise interlock.Unavailable(f"Graphviz failed: {said}")
    return drawn.stdout


def named_machine(name: str, store: str | None, space: str) -> interlock.Machine:
    """Return the machine of a name, of the store's too, or of `module:name`.  Raises Invalid."""
    if ":" in name:
        found = imported(name)
        if isinstance(found, interlock.Machine):
            return found
        raise interlock.Invalid(f"{name} is a {type(found).__name__}, not an interlock.Machine.")
    known = {m.name: m for m in (interlock.BOOKING, interlock.AGENT_LIFECYCLE)}
    if store:
        with interlock.open(store, space=space, create=False) as opened:
            machines = [r.machine for r in opened.rules.values() if r.machine is not None]
            known.update({m.name: m for m in machines})
    if name not in known:
        raise interlock.Invalid(f"No machine is named {name!r}. Known: {', '.join(sorted(known))}.")
    return known[name]


def read_rules(file: str) -> dict[str, interlock.Rule]:
    """Return the rules of a JSON file or of a Python module.  Raises Invalid."""
    if ":" in file and not Path(file).exists():
        found = imported(file)
        if isinstance(found, Mapping):
            return dict(found)
        raise interlock.Invalid(f"{file} is a {type(found).__name__}, not a mapping of rules.")
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as problem:
        raise interlock.Invalid(f"Can't read {file}: {problem.strerror}") from problem
    except ValueError as problem:
        raise interlock.Invalid(f"{file} is not JSON: {problem}") from problem
    return interlock.rules_from_json(data)


def _tell(
    before: Mapping[str, interlock.Rule],
    after: Mapping[str, interlock.Rule],
    as_json: bool,
    mood: str,
) -> None:
    old = {pattern: interlock.describe_rule(rule) for pattern, rule in before.items()}
    new = {pattern: interlock.describe_rule(rule) for pattern, rule in after.items()}
    added = sorted(new.keys() - old.keys())
    removed = sorted(old.keys() - new.keys())
    changed = sorted(p for p in old.keys() & new.keys() if old[p] != new[p])
    if as_json:
        click.echo(compact({"added": added, "removed": removed, "changed": changed}))
        return
    for verb, names in (("added", added), ("removed", removed), ("changed", changed)):
        for pattern in names:
            now = new.get(pattern) or old[pattern]
            was = f" (was {old[pattern]})" if verb == "changed" else ""
            click.echo(f"{mood}{verb}: {pattern}: {now}{was}")
    if not (added or removed or changed):
        click.echo("the rules are these already")


def _documented(pattern: str, rule: interlock.Rule) -> dict[str, str]:
    kind, who, how, _ = rule.about
    if rule.machine is not None:
        kind = f"{kind}, machine-bound"
        how += f"; {rule.machine.field} moves along machine {rule.machine.name!r}"
    if rule.on_conflict == "rebase":
        how += "; disjoint changes merge"
    return {"keys": pattern, "kind": kind, "who_writes": who, "how": how}


for _command in (show, check, apply, doc):
    rules.add_command(_command)
machine.add_command(draw)
