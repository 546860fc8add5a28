"""`interlock check`: checks a recorded history of any system.

The checks live in `interlock.verify`, the format in docs/how-to/histories.md.
"""

from __future__ import annotations

import click
from rich.console import Console

from interlock.cli.common import ANOMALIES, UNDECIDED, compact, reported
from interlock.cli.table import DataTable
from interlock.verify import Verdict, check_linearizable, check_serializable, read_history

MODELS = ("linearizable", "serializable", "strict")


@click.command()
@click.argument("file")
@click.option(
    "--model",
    type=click.Choice(MODELS),
    help="What to check; strict is serializable in real time.  Without it: serializable if there "
    "is a transaction in FILE, else linearizable.",
)
@click.option(
    "--budget",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Steps for each key; a key that takes more is undecided.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=10, show_default=True, help="Anomalies to print."
)
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def check(file: str, model: str | None, budget: int, limit: int, as_json: bool) -> None:
    """Check the history in FILE: lines of JSON, one operation each, of any system.

    \b
    Exit codes: 0 it keeps the model; 6 it does not; 7 undecided;
    2 FILE is not a history.
    """
    with reported(as_json):
        history = read_history(file)
        if model is None:
            has_transaction = any(operation.kind == "txn" for operation in history)
            model = "serializable" if has_transaction else "linearizable"
        if model == "linearizable":
            verdict = check_linearizable(history, budget=budget, limit=limit)
        else:
            verdict = check_serializable(history, strict=model == "strict", limit=limit)
        if not history:  # most likely the recording failed: that must not pass
            verdict = verdict._replace(undecided=("the file holds no operations",))
        if as_json:
            click.echo(compact(verdict.to_json()))
        else:
            _show(verdict)
    if not verdict.ok:
        raise SystemExit(ANOMALIES if verdict.anomalies else UNDECIDED)


def _show(verdict: Verdict) -> None:
    click.echo(verdict.headline())
    if verdict.anomalies:
        table = DataTable("anomaly", "keys", "operations", box=None, pad_edge=False)
        for anomaly in verdict.anomalies:
            names = [operation.id or f"line {operation.line}" for operation in anomaly.operations]
            table.add_row(anomaly.name, ", ".join(anomaly.keys), ", ".join(names))
        Console(highlight=False, markup=False).print(table)
    for anomaly in verdict.anomalies:
        click.echo(f"\n{anomaly}")
    if verdict.found > len(verdict.anomalies):
        click.echo(f"\n{verdict.found - len(verdict.anomalies)} more are not shown (--limit)")
    for reason in verdict.undecided:
        click.echo(f"undecided: {reason}")
