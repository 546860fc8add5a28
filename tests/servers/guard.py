"""Runs one server, and kills it when the process that asked for it dies, however it dies.

Started as a program by `process.py`: `guard.py UID GID FOLDER -- COMMAND...`.  It writes the
server's process id to standard output and waits.  Standard input is a pipe that nobody writes to:
its end means that the test process is gone.  (A forked child of the tests may hold the pipe open,
so the guard also looks once a second whether its parent is still the same.)  Then it kills the
server with its children, and removes FOLDER.  Else it ends when the server does.

Imports as little as it can: it starts before every server.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

_LOOKS_EVERY = 1.0
_DIES_WITHIN = 10.0


def states() -> dict[int, tuple[int, str]]:
    """Return each process of the machine with its parent and its state letter, as `ps` has it."""
    if not os.path.exists("/proc/self/stat"):
        with os.popen("ps -A -o pid=,ppid=,stat=") as listed:
            rows = [line.split() for line in listed]
        return {int(pid): (int(parent), state[0]) for pid, parent, state in rows}
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # A process may end while it is looked at.
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                found[int(name)] = (int(parent), state.decode())
    return found


def tree(pid: int) -> list[int]:
    """Return a process and its children."""
    return [pid, *(each for each, (parent, _) in states().items() if parent == pid)]


def send(pids: list[int], number: int) -> None:
    """Send a signal to processes, some of which may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def pause_tree(pid: int) -> list[int]:
    """Stop a process, then its children; return them.  None can be born in between."""
    send([pid], signal.SIGSTOP)
    _wait_until(lambda: states().get(pid, (0, "Z"))[1] in "TtZX")
    pids = tree(pid)
    send(pids, signal.SIGSTOP)
    return pids


def kill_tree(pid: int) -> None:
    """Kill a process and its children as a crash would, and wait until all are dead."""
    pids = pause_tree(pid)
    send(pids, signal.SIGKILL)

    def dead() -> bool:
        now = states()
        return all(each not in now or now[each][1] in "ZX" for each in pids)

    _wait_until(dead)


def _wait_until(condition) -> None:  # type: ignore[no-untyped-def]  # spares the import of typing
    for _ in range(int(_DIES_WITHIN / 0.002)):
        if condition():
            return
        select.select([], [], [], 0.002)


def _become(uid: int, gid: int, command: list[str]) -> None:
    """Turn this forked process into the server: its output goes to standard error, the log."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.setsid()
    if os.geteuid() == 0 and uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.execv(command[0], command)


def main(arguments: list[str]) -> int:
    """Run the server until it ends or the parent does; return the server's exit code."""
    uid, gid, folder, _, *command = arguments
    parent = os.getppid()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server = os.fork()
    if server == 0:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become(int(uid), int(gid), command)
        except OSError as problem:
            os.write(2, f"{command[0]}: {problem}\n".encode())
        os._exit(127)
    os.write(1, f"{server}\n".encode())
    os.close(1)
    while True:
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        ready, _, _ = select.select([0, woken], [], [], _LOOKS_EVERY)
        if woken in ready:
            os.read(woken, 100)
        if 0 in ready or os.getppid() != parent:
            kill_tree(server)
            _wait_until(lambda: os.getppid() != parent)  # its files are closed before it is gone
            if os.getppid() != parent:
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
