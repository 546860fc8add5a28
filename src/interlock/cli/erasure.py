"""The command that erases values for good."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

import interlock
from interlock.cli.common import compact, imported, progress_bar, store_command


@store_command(reads=True)
@click.argument("key", required=False)
@click.option("--prefix", help="Values of all keys that begin with this.")
@click.option("--containing", metavar="TEXT", help="Only values that have TEXT in them.")
@click.option("--where", metavar="MODULE:FUNCTION", help="Only entries that it returns true for.")
@click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--vacuum", is_flag=True, help="Have the server rewrite its files, too.")
def erase(
    space: interlock.Space,
    as_json: bool,
    key: str | None,
    prefix: str | None,
    containing: str | None,
    where: str | None,
    dry_run: bool,
    yes: bool,
    vacuum: bool,
) -> None:
    """Erase values for good: of KEY, of a --prefix, or of whatever matches in the whole space.

    Positions, versions, agents and times stay.  After an interruption run it again.
    """
    if containing is not None and where is not None:
        raise click.UsageError("Give --containing or --where, not both.")
    choose = imported(where) if where else _contains(containing)
    with progress_bar("looking through the log") as advance:
        would = space.erase(key, prefix=prefix, where=choose, dry_run=True, progress=advance)
    if dry_run:
        _tell(would, as_json)
        return
    if not yes and would.keys:
        question = f"Erase {_counted(would)} for good?"
        click.confirm(question, abort=True, err=True)
    with progress_bar("erasing") as advance:
        done = space.erase(key, prefix=prefix, where=choose, vacuum=vacuum, progress=advance)
    _tell(done, as_json)


def _contains(text: str | None) -> Callable[[interlock.Entry], bool] | None:
    if text is None:
        return None
    if not text:
        raise click.UsageError("--containing needs a text.")
    return lambda entry: (
        text in json.dumps(entry.value, ensure_ascii=False) or _within(text, entry.value)
    )


def _within(text: str, value: object) -> bool:
    """Say whether a string of a value has a text, which JSON may write otherwise."""
    if isinstance(value, str):
        return text in value
    if isinstance(value, dict):
        return any(text in name or _within(text, each) for name, each in value.items())
    return isinstance(value, list) and any(_within(text, each) for each in value)


def _counted(erasure: interlock.Erasure) -> str:
    keys = f"{len(erasure.keys)} key{'' if len(erasure.keys) == 1 else 's'}"
    values = erasure.removed.get("log", 0)
    return f"{values} value{'' if values == 1 else 's'} of {keys}"


def _tell(erasure: interlock.Erasure, as_json: bool) -> None:
    if as_json:
        click.echo(compact(erasure._asdict()))
        return
    if not erasure.keys:
        click.echo(f"Nothing to erase: looked at {erasure.looked_at} values.")
    elif erasure.dry_run:
        click.echo(f"Would erase {_counted(erasure)}, of {erasure.looked_at} looked at:")
    else:
        click.echo(f"Erased {_counted(erasure)}, of {erasure.looked_at} looked at:")
    for key in erasure.keys:
        click.echo(f"  {key}")
    for each in erasure.projections:
        click.echo(f"  {each} (it is folded again)")
    for each in erasure.done:
        click.echo(f"Done: {each}.")
    for each in erasure.remains if not erasure.dry_run else ():
        click.echo(f"Not reached: {each}.")
