"""Source distributions: fetched with pip at a pinned version, checked by hash, unpacked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.peers.suites import Suite
from tests.repository import ROOT

CACHE = ROOT / "build" / "peers"
_FETCHED_WITHIN = 600  # seconds


class NotFetched(RuntimeError):
    """A source distribution cannot be had, or is not the one that was pinned."""


def unpacked(suite: Suite, cache: Path = CACHE) -> Path:
    """Return the folder of a suite's source distribution, as it was published.

    It is unpacked anew, so that nothing that an earlier run left counts.  Raises NotFetched.
    """
    archive = _fetched(suite, cache)
    folder = cache / archive.name.removesuffix(".tar.gz")
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as opened:
        # Python 3.11 has the filter since 3.11.4.
        opened.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        opened.extractall(cache)
    if not folder.is_dir():
        raise NotFetched(f"{archive} does not hold the folder {folder.name}")
    return folder


def archive_name(suite: Suite) -> str:
    """Return the file name of a source distribution, as the packaging standard spells it."""
    return f"{suite.package.replace('-', '_')}-{suite.version}.tar.gz"


def _fetched(suite: Suite, cache: Path) -> Path:
    archive = cache / archive_name(suite)
    if not archive.exists():
        _download(suite, cache)
    if not archive.exists():
        raise NotFetched(f"pip did not make {archive}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != suite.sha256:
        raise NotFetched(f"{archive} has the SHA-256 {found}, not {suite.sha256}; remove it")
    return archive


def _download(suite: Suite, cache: Path) -> None:
    """Have pip fetch a source distribution; pip checks the hash before it runs any of it."""
    cache.mkdir(parents=True, exist_ok=True)
    wanted = cache / f"{suite.package}.txt"
    wanted.write_text(f"{suite.package}=={suite.version} --hash=sha256:{suite.sha256}\n")
    command = [_python_with_pip(suite), "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", suite.package, "--require-hashes", "-r", str(wanted)]
    ran = subprocess.run(
        [*command, "--dest", str(cache)],
        capture_output=True,
        text=True,
        timeout=_FETCHED_WITHIN,
        check=False,
    )
    if ran.returncode:
        raise NotFetched(f"pip cannot fetch {suite.package} {suite.version}:\n{ran.stderr.strip()}")


def _python_with_pip(suite: Suite) -> str:
    """Return a Python that has pip: an environment made by uv has none unless it asks for it."""
    for python in (str(suite.python), sys.executable, shutil.which("python3") or ""):
        if python and Path(python).exists():
            has = subprocess.run([python, "-c", "import pip"], capture_output=True, check=False)
            if has.returncode == 0:
                return python
    raise NotFetched("no pip is installed, and it fetches the suites: run `make peers`")
