"""Runs the tests on each Python version that Interlock supports: `make matrix`.

    python -m tools.matrix [--newest | --python 3.11 ...] [arguments of pytest]

An interpreter is found by uv, on the PATH, or among pyenv's; none is downloaded.  Each version has
an environment of its own, `.venv-3.11` and so on.  Without any interpreter for a version, that is
said, and the others run.  `--newest` prints the newest interpreter, and runs nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
UV = os.environ.get("UV", "uv")


def candidates(version: str) -> Iterator[str]:
    """Yield what may be an interpreter of a version."""
    if found := shutil.which(f"python{version}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}")))
    if shutil.which(UV):
        asked = [UV, "python", "find", "--no-python-downloads", "--no-project", version]
        yield subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def interpreter(version: str) -> str | None:
    """Return an interpreter of a version that starts, or None."""
    shown = "import sys; print('%d.%d' % sys.version_info[:2])"
    for path in filter(None, candidates(version)):
        ran = subprocess.run([path, "-c", shown], capture_output=True, text=True)
        if ran.returncode == 0 and ran.stdout.strip() == version:
            return path
    return None


def tested(version: str, python: str, arguments: list[str]) -> bool:
    """Bring the environment of a version up to date and run tests in it; say whether they pass."""
    home = ROOT / f".venv-{version}"
    lock = ["--constraint", "requirements.lock", "--editable", ".", "--group", "dev"]
    for command in (
        [UV, "venv", "--quiet", "--allow-existing", "--python", python, str(home)],
        [UV, "pip", "install", "--quiet", "--python", str(home / "bin/python"), *lock],
        [str(home / "bin/python"), "-m", "pytest", *arguments],
    ):
        if subprocess.run(command, cwd=ROOT).returncode:
            return False
    return True


def main() -> int:
    """Run the tests on what is found; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--newest", action="store_true", help="print the newest interpreter")
    parser.add_argument("--python", action="append", choices=VERSIONS, help="only this version")
    options, arguments = parser.parse_known_args()
    found = {version: interpreter(version) for version in options.python or VERSIONS}
    if options.newest:
        print(next((path for path in reversed(found.values()) if path), ""))
        return 0
    results = {}
    for version, python in found.items():
        if python is None:
            results[version] = "not run: no interpreter found"
            continue
        began = time.monotonic()
        passed = tested(version, python, arguments)
        results[version] = f"{'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s"
    for version, result in results.items():
        print(f"Python {version}: {result}")
    return int("FAILED" in str(results) or not any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
