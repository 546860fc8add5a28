"""`interlock audit`: the lines of Python code that can lose a write, with reason and fix."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import interlock
from interlock.audit import RULES, Finding, Report, SettingsError
from interlock.audit import audit as run_audit
from interlock.audit.output import as_annotation, as_json, as_sarif
from interlock.audit.settings import (
    Settings,
    check_rules,
    find_settings,
    read_settings,
    without_baseline,
    write_baseline,
)
from interlock.cli.common import ANOMALIES, PIPED_WIDTH, compact, reported

_RULE_LIST = "\b\nRules:\n" + "\n".join(
    f"  {rule.name:<16} {rule.title}" for rule in RULES.values()
)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=_RULE_LIST)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--rule", "rules", multiple=True, metavar="RULE", help="Only this rule; may be repeated."
)
@click.option(
    "--ignore", "ignored", multiple=True, metavar="RULE", help="Not this rule; may be repeated."
)
@click.option(
    "--config", type=_FILE, help="Settings and stores, instead of the nearest pyproject.toml."
)
@click.option("--baseline", type=_FILE, help="Leave out what this file has accepted.")
@click.option(
    "--write-baseline",
    "accept",
    type=_FILE,
    help="Accept everything found now: write it to a file.",
)
@click.option("--json", "as_json_", is_flag=True, help="Print one object: findings, files, lines.")
@click.option("--sarif", is_flag=True, help="Print SARIF 2.1.0.")
@click.option("--github", is_flag=True, help="Print annotations for GitHub Actions.")
def audit(
    paths: tuple[Path, ...],
    rules: tuple[str, ...],
    ignored: tuple[str, ...],
    config: Path | None,
    baseline: Path | None,
    accept: Path | None,
    as_json_: bool,
    sarif: bool,
    github: bool,
) -> None:
    """Find the lines of Python code that can lose a write.

    Reads the Python files below PATHS; nothing is imported or run.  Folders of tests and
    migrations are left out unless a path names them.  Exit code 6 if anything is found.
    """
    with reported(as_json_):
        if as_json_ + sarif + github > 1:
            raise click.UsageError("Give one of --json, --sarif and --github.")
        try:
            check_rules([*rules, *ignored])
            settings = read_settings(config) if config else find_settings(_first_folder(paths))
            settings.ignore += ignored
            report = _run(paths, settings)
            if rules:
                report.findings = [each for each in report.findings if each.rule in rules]
            if accept:
                write_baseline(accept, report.findings)
            if baseline:
                report.findings = without_baseline(baseline, report.findings)
        except SettingsError as problem:
            raise click.UsageError(str(problem)) from problem
        if as_json_:
            told = {
                "findings": [as_json(each) for each in report.findings],
                "files": report.files,
                "lines": report.lines,
                "ignored": report.ignored,
                "unreadable": [{"file": file, "why": why} for file, why in report.unreadable],
            }
            click.echo(compact(told))
        elif sarif:
            click.echo(compact(as_sarif(report.findings, interlock.__version__)))
        elif github:
            for each in report.findings:
                click.echo(as_annotation(each))
        else:
            _show(report)
    if report.findings and not accept:
        raise SystemExit(ANOMALIES)


def _first_folder(paths: tuple[Path, ...]) -> Path:
    return paths[0] if paths[0].is_dir() else paths[0].parent


def _run(paths: tuple[Path, ...], settings: Settings) -> Report:
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        progress.add_task("reading and following the code")
        return run_audit(paths, settings=settings)


def _show(report: Report) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else max(PIPED_WIDTH, 120))
    lines: dict[str, list[str]] = {}
    for finding in report.findings:
        _show_one(console, finding, lines)
    for file, why in report.unreadable:
        console.print(f"[yellow]{escape(file)}: not read: {escape(why)}[/]")
    found = len(report.findings)
    many = "finding" if found == 1 else "findings"
    ignored = f", {report.ignored} ignored" if report.ignored else ""
    console.print(f"{found} {many} in {report.files} files ({report.lines} lines){ignored}")


def _show_one(console: Console, finding: Finding, lines: dict[str, list[str]]) -> None:
    site = finding.site
    colour = "red" if finding.severity == "error" else "yellow"
    console.print(
        f"[bold]{escape(site.file)}:{site.line}[/] [{colour}]{finding.severity} {finding.rule}[/] "
        f"in {escape(finding.function)}"
    )
    console.print(f"  {escape(finding.message)}")
    last: tuple[str, int] | None = None
    for step in finding.steps:
        at = (step.site.file, step.site.line)
        if at == last:
            continue
        if step.site.file != (last[0] if last else site.file):
            console.print(f"  [dim]{escape(step.site.file)}[/]")
        last = at
        if step.site.file not in lines:
            lines[step.site.file] = Path(step.site.file).read_text("utf-8").splitlines()
        source = lines[step.site.file][step.site.line - 1].strip()
        shown = f"[dim]{step.site.line:>5} |[/] {escape(source[:90])}"
        console.print(f"  {shown}  [cyan]<- {escape(step.text)}[/]")
    console.print(f"  why: {escape(finding.why)}")
    console.print(f"  fix: {escape(finding.fix)}\n")
