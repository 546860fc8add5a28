"""Runs the test of each mutant in a copy of the sources, and judges how it failed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from tests.mutants.table import HERE, Mutant, mutated

COPIED = ("src", "tests", "pyproject.toml")
# What a test may fail with: a failed assertion, an exception that did not come, a refusal.
EXPECTED = {"AssertionError", "Failed", "Refused"}
FOUND, SURVIVES, HANGS, BROKEN = "found", "SURVIVES", "HANGS", "BROKEN"
_ENDS_WITHIN = 15.0  # seconds that an interrupted test has to stop its servers
_GONE_WITHIN = 20.0  # seconds until the servers of a killed test are dead, and their files gone


class Stopped(Exception):
    """The runner was closed before a test began."""


class Verdict(NamedTuple):
    """What became of a mutant, or of the tests without one (`mutant` is None)."""

    mutant: Mutant | None
    what: str
    why: str
    seconds: float


class Ran(NamedTuple):
    """One run of pytest: its exit code (None: not in time), what the witness saw, its output."""

    code: int | None
    told: dict[str, Any]
    output: str
    seconds: float


class Copy:
    """A copy of the sources, in which one test at a time runs."""

    def __init__(self, root: Path, folder: Path, compiled: Path) -> None:
        self.folder = folder / "copy"
        self._compiled = compiled
        self._temporary = folder / "tmp"
        self.folder.mkdir(parents=True)
        self._temporary.mkdir()
        for path in (folder, self._temporary):
            path.chmod(0o711)  # the servers of root run as another user
        for name in COPIED:
            path = root / name
            if path.is_dir():
                hidden = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(path, self.folder / name, ignore=hidden)
            elif path.exists():
                shutil.copy2(path, self.folder / name)
        shutil.copy2(HERE / "witness.py", self.folder / "mutants_witness.py")
        self._changes = 0

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """Take the guard out, and put it back."""
        path = self.folder / mutant.file
        before, stamp = path.read_bytes(), path.stat().st_mtime
        self._changes += 1
        path.write_text(mutated(mutant, before.decode()), encoding="utf-8")
        # Compiled files are told apart by size and whole seconds: each change has its own.
        os.utime(path, (stamp + self._changes, stamp + self._changes))
        try:
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, (stamp, stamp))

    def command(self, tests: Sequence[str]) -> list[str]:
        """Return what runs some tests."""
        options = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
        base = ["--basetemp", str(self._temporary / "pytest"), "-p", "mutants_witness"]
        return [sys.executable, "-m", "pytest", *options, *base, *tests]

    def environment(self) -> dict[str, str]:
        """Return the environment of the tests: this copy is the Interlock that they import."""
        return {
            **os.environ,
            "PYTHONPATH": str(self.folder / "src"),
            "MUTANTS_WITNESS": str(self.witness),
            "TMPDIR": str(self._temporary),
            "PYTEST_ADDOPTS": "",
            # Compiling what pytest rewrites takes longer than most tests: it is kept between them.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(self._compiled),
        }

    @property
    def witness(self) -> Path:
        """The file that the plugin writes."""
        return self._temporary / "witness.json"


class Runner:
    """Runs tests in copies, `jobs` at once.  Use it with `with`: nothing is left behind."""

    def __init__(self, root: Path, jobs: int, timeout: float) -> None:
        self._jobs = jobs
        self._timeout = timeout
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self.folder = Path(tempfile.mkdtemp(prefix="interlock-mutants-"))
        self.folder.chmod(0o711)
        self._threads = ThreadPoolExecutor(jobs)
        self._copies: SimpleQueue[Copy] = SimpleQueue()
        try:
            for number in range(jobs):
                self._copies.put(Copy(root, self.folder / str(number), self.folder / "compiled"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, and remove the copies."""
        with self._lock:
            self._stopped = True
            running = [*self._running]
        for process in running:
            _interrupt(process)
        self._threads.shutdown()
        _remove(self.folder)

    def each(self, mutants: Sequence[Mutant], say: Callable[[Verdict], None]) -> list[Verdict]:
        """Judge every mutant; tell each verdict as it comes."""
        return self._all([partial(self._judge, mutant) for mutant in mutants], say)

    def without_mutants(self, tests: Sequence[str]) -> list[Verdict]:
        """Return the tests' files whose tests fail as the sources are."""
        files: dict[str, list[str]] = {}
        for test in dict.fromkeys(tests):
            files.setdefault(test.partition("::")[0], []).append(test)
        work = [partial(self._healthy, named) for named in files.values()]
        return [each for each in self._all(work, lambda _: None) if each.what != FOUND]

    def _all(
        self, work: Sequence[Callable[[], Verdict]], say: Callable[[Verdict], None]
    ) -> list[Verdict]:
        waiting: set[Future[Verdict]] = {self._threads.submit(each) for each in work}
        verdicts = []
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for each in done:
                verdicts.append(each.result())
                say(verdicts[-1])
        return verdicts

    def _judge(self, mutant: Mutant) -> Verdict:
        copy = self._copies.get()
        try:
            with copy.changed(mutant):
                ran = self._run(copy, [mutant.test], self._timeout)
        finally:
            self._copies.put(copy)
        what, why = judged(mutant, ran, copy.folder)
        return Verdict(mutant, what, why, ran.seconds)

    def _healthy(self, tests: list[str]) -> Verdict:
        copy = self._copies.get()
        try:
            ran = self._run(copy, tests, self._timeout * (1 + len(tests) / 4))
        finally:
            self._copies.put(copy)
        fine = ran.code == 0 and len(ran.told.get("ran", ())) >= len(tests)
        why = f"these tests fail as the sources are:\n{ran.output[-3000:]}"
        return Verdict(None, FOUND if fine else BROKEN, "" if fine else why, ran.seconds)

    def _run(self, copy: Copy, tests: list[str], timeout: float) -> Ran:
        copy.witness.unlink(missing_ok=True)
        began = time.monotonic()
        with self._lock:
            if self._stopped:
                raise Stopped
            process = subprocess.Popen(
                copy.command(tests),
                cwd=copy.folder,
                env=copy.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._running.add(process)
        code: int | None
        try:
            output, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            _interrupt(process)
            output, code = process.communicate()[0], None
        finally:
            with self._lock:
                self._running.discard(process)
        seen = copy.witness.read_text(encoding="utf-8") if copy.witness.exists() else "{}"
        return Ran(code, json.loads(seen), output, time.monotonic() - began)


def judged(mutant: Mutant, ran: Ran, folder: Path) -> tuple[str, str]:
    """Return what became of a mutant, and why.

    It is found where its test ran and failed by what it checks.  A mutant that cannot be imported,
    that a fixture trips over or that ends in some other error shows nothing about the guard.
    """
    failures = ran.told.get("failures", [])
    source = ran.told.get("source")
    if ran.code is None:
        return HANGS, f"not done after {ran.seconds:.0f} s"
    ours = (folder / "src" / "interlock").is_dir()
    if ours and source is not None and not Path(source).is_relative_to(folder):
        return BROKEN, f"the test imported {source}"
    if ran.code == 0:
        return SURVIVES, "its test passes"
    if ran.code != 1 or not failures:
        return BROKEN, f"pytest ended with {ran.code}: {_last_line(ran.output)}"
    expected = {*mutant.raises.split()} or EXPECTED
    for failure in failures:
        if failure["when"] == "setup" or not expected & {*failure["kinds"]}:
            kind = failure["kinds"][0] if failure["kinds"] else "error"
            return BROKEN, f"{kind} in {failure['when']}: {failure['words']}"
    return FOUND, failures[0]["words"]


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "no output"


def _interrupt(process: subprocess.Popen[str]) -> None:
    """End a test as Ctrl-C would, so that it stops its servers; kill it where it does not."""
    for number, within in ((signal.SIGINT, _ENDS_WITHIN), (signal.SIGKILL, _ENDS_WITHIN)):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(within)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _remove(folder: Path) -> None:
    """Remove a folder.  The servers of a test that was killed may write into it a moment longer."""
    ends = time.monotonic() + _GONE_WITHIN
    while folder.exists() and time.monotonic() < ends:
        shutil.rmtree(folder, ignore_errors=True)
        threading.Event().wait(0.05 if folder.exists() else 0)
