"""What the checks on the repository itself share: its files, as parsed or as text.

The checks are in `test_repository_*.py`.  Each is a function of a path and a text that returns what
is wrong, so that it is tried on bad input, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "interlock"

Check = Callable[[str, str], list[str]]


@cache
def tracked() -> tuple[Path, ...]:
    """Return the repository's files: what git knows or would add, or all there is without git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not _is_made(path.relative_to(ROOT))]
    return tuple(sorted(path for path in paths if path.is_file()))


def _is_made(path: Path) -> bool:
    hidden = path.parts[0].startswith(".") and path.parts[0] not in {".ci", ".gitignore"}
    return hidden or bool({"build", "dist", "__pycache__"} & set(path.parts))


def files(*suffixes: str, under: Iterable[str] = ("",)) -> list[Path]:
    """Return the repository's files with these endings, in these folders."""
    roots = [ROOT / folder for folder in under]
    return [
        path
        for path in tracked()
        if path.name.endswith(suffixes) and any(path.is_relative_to(root) for root in roots)
    ]


def pages() -> list[Path]:
    """Return README.md and the pages of the manual."""
    return [ROOT / "README.md", *files(".md", under=["docs"])]


def contract_parts() -> dict[str, Path]:
    """Return the files of the contract suite, by what they are about.

    They run on the stores of the suite; other files beside them name stores of their own.
    """
    paths = sorted((ROOT / "tests" / "contract").glob("test_*.py"))
    texts = {path: text_of(path) for path in paths}
    return {
        path.stem.removeprefix("test_"): path
        for path, text in texts.items()
        if "from tests.facades import Facades" in text and "def store_url" not in text
    }


def text_of(path: Path) -> str:
    """Return a file's text; what is not UTF-8 is replaced."""
    return path.read_bytes().decode("utf-8", "replace")


def name_of(path: Path) -> str:
    """Return a file's path as messages show it."""
    return path.relative_to(ROOT).as_posix()


def found(check: Check, paths: Iterable[Path]) -> str:
    """Return what a check has to say about some files, a line each; empty where all is well."""
    return "\n".join(problem for path in paths for problem in check(name_of(path), text_of(path)))
