"""The commands for shared documents: files sync, status, adopt, discard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import click

import interlock
from interlock.cli.common import CONFLICT, compact, store_command


@click.group()
def files() -> None:
    """Look after the files that show the documents of a space."""


def _options(fn: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments that every command on files has."""
    named = click.option("--pattern", default="**", show_default=True, help="Of the paths.")
    hidden = click.option("--hidden", is_flag=True, help="Paths such as .github/x, too.")
    return click.argument("root", type=click.Path(file_okay=False))(named(hidden(fn)))


@store_command(reads=True)
@_options
@click.option("--follow", is_flag=True, help="Go on with what others write, until Ctrl-C.")
@click.option("--rebuild", is_flag=True, help="Set aside what was edited around the space.")
def sync(
    space: interlock.Space,
    as_json: bool,
    root: str,
    pattern: str,
    hidden: bool,
    follow: bool,
    rebuild: bool,
) -> None:
    """Make the files below ROOT what the space holds; edited ones are left as they are."""
    found = space.files(root, pattern, hidden=hidden)
    done: Iterable[interlock.Document] = found.rebuild() if rebuild else ()
    _tell(done, as_json)
    _tell(found.follow() if follow else found.sync(), as_json)


@store_command(reads=True)
@_options
def status(space: interlock.Space, as_json: bool, root: str, pattern: str, hidden: bool) -> None:
    """List the files below ROOT that are not what the space holds."""
    found = space.files(root, pattern, hidden=hidden).status()
    for each in found:
        where = "".join(f"  {told}" for told in (each.where, each.reason) if told)
        click.echo(compact(each._asdict()) if as_json else f"{each.state:<9} {each.path}{where}")
    if not found and not as_json:
        click.echo("every file is what the space holds", err=True)


@store_command(reads=False)
@_options
@click.argument("paths", nargs=-1)
def adopt(
    space: interlock.Space,
    as_json: bool,
    root: str,
    pattern: str,
    hidden: bool,
    paths: tuple[str, ...],
) -> None:
    """Commit what was edited around the space: PATHS below ROOT, or all, and every new file."""
    found = space.files(root, pattern, merge=True, hidden=hidden)
    done = [found.adopt(path) for path in paths] if paths else found.adopt_all()
    _tell(done, as_json)
    if any(document.edited for document in done):
        click.echo("Error: edits that clash with the space were left as they are", err=True)
        raise SystemExit(CONFLICT)


@store_command(reads=True)
@_options
@click.argument("paths", nargs=-1, required=True)
def discard(
    space: interlock.Space,
    as_json: bool,
    root: str,
    pattern: str,
    hidden: bool,
    paths: tuple[str, ...],
) -> None:
    """Put back what the space holds of PATHS below ROOT; the edits are set aside."""
    found = space.files(root, pattern, hidden=hidden)
    _tell((found.discard(path) for path in paths), as_json)


def _tell(found: Iterable[interlock.Document], as_json: bool) -> None:
    for document in found:
        state = document.state if document.exists else "deleted"
        told: dict[str, object] = {
            "path": document.path,
            "version": document.version,
            "state": state,
        }
        click.echo(compact(told) if as_json else f"{state:<9} {document.path}")
        sys.stdout.flush()


for command in (sync, status, adopt, discard):
    files.add_command(command)
