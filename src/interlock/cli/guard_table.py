"""`interlock guard PLACE init-table`: the SQL that makes a table ready for guards."""

from __future__ import annotations

import json
from pathlib import Path

import click

import interlock
from interlock import guards
from interlock.cli.common import reported
from interlock.cli.rules import read_rules


@click.command("init-table")
@click.argument("table")
@click.option("--key", "keys", multiple=True, default=("id",), show_default=True,
              help="A column of the key. Repeat it for several.")  # fmt: skip
@click.option("--version", default="version", show_default=True, help="The column to add.")
@click.option("--schema", help="The schema of the table.")
@click.option(
    "--trigger", is_flag=True, help="Let every UPDATE, guarded or not, raise the version."
)
@click.option(
    "--machine",
    type=click.Path(exists=True, dir_okay=False),
    help="Let the database refuse illegal states: rules (JSON, .py) with one state machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def init_table(
    context: click.Context,
    table: str,
    keys: tuple[str, ...],
    version: str,
    schema: str | None,
    trigger: bool,
    machine: str | None,
    as_json: bool,
) -> None:
    """Print the SQL that makes TABLE ready for guards.

    PLACE is postgresql or sqlite, or a URL that begins so; nothing is opened.
    """
    with reported(as_json):
        text = guards.init_table(
            context.obj.place.partition(":")[0].partition("+")[0],
            table,
            key=keys,
            version=version,
            trigger=trigger,
            machine=None if machine is None else _machine(machine),
            in_schema=schema,
        )
        click.echo(json.dumps({"sql": text}) if as_json else text, nl=as_json)


def _machine(file: str) -> interlock.Machine:
    found = {rule.machine for rule in read_rules(file).values() if rule.machine is not None}
    if len(found) != 1:
        raise interlock.Invalid(f"{Path(file).name} has {len(found)} state machines, not one.")
    return found.pop()
