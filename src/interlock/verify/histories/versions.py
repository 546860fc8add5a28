"""Which transaction made which version of which key, who read it, and which version came next."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from interlock.verify.histories.history import (
    ABSENT,
    APPEND,
    CAS,
    FAILED,
    OK,
    Anomaly,
    Operation,
    State,
    States,
)


class Line:
    """The versions of one key.  They are numbers: 0 is the key that was never written.

    `by_value`: versions were not recorded, so each value stands for one, in no order of numbers.
    `after` holds the versions known to follow a version at once: one, or several rivals.
    """

    def __init__(self, name: str, by_value: bool) -> None:
        self.name = name
        self.by_value = by_value
        self.doubt = ""  # why nothing can be told of this key
        self.numbers: dict[str, int] = {ABSENT: 0}
        self.writer: dict[int, int] = {}
        self.texts: dict[int, str | None] = {0: ABSENT}
        self.by_text: dict[str, list[int]] = {ABSENT: [0]}
        self.untold = False  # a version has a value that was not recorded
        self.perhaps: set[str | None] = set()  # the values that were perhaps written
        self.readers: dict[int, list[int]] = {}
        self.after: dict[int, list[int]] = {}
        self.between: dict[int, Operation] = {}  # written, and overwritten by the same transaction
        self.others: list[tuple[Operation, State]] = []  # of those that failed, or are unknown

    def made(self, state: State) -> int | None:
        """Return the version that was made; None where that was not recorded."""
        if not self.by_value:
            return state.version
        return (
            None if state.text is None else self.numbers.setdefault(state.text, len(self.numbers))
        )

    def seen(self, state: State) -> int | None:
        """Return the version that was read; None where it cannot be told."""
        if self.by_value or state.version is not None:
            return self.made(state)
        same = self.by_text.get(state.text or "", ())
        # Another version may have had this value, too, where that was not recorded.
        doubtful = self.untold or None in self.perhaps or state.text in self.perhaps
        return same[0] if len(same) == 1 and not doubtful else None

    def note(self, version: int, node: int, text: str | None) -> None:
        """Note who made a version, and with which value."""
        self.writer[version] = node
        self.texts[version] = text
        if text is None:
            self.untold = True
        else:
            self.by_text.setdefault(text, []).append(version)


class Read(NamedTuple):
    """A version that a transaction saw; `scan` is the prefix whose scan did not show the key."""

    line: Line
    version: int
    scan: str | None = None


class Unsure(NamedTuple):
    """A scan that did not show a key, which was absent at several versions."""

    reader: int
    line: Line
    versions: frozenset[int]


class Versions:
    """The transactions that took effect, by number, and what each read and wrote.

    One whose outcome is unknown is among them only if another read what it wrote: else it may be
    left out, for nobody can tell.
    """

    def __init__(self, history: Iterable[Operation]) -> None:
        self.history = [each for each in history if each.reads or each.writes or each.scans]
        self.nodes: list[Operation] = []
        self.reads: list[list[Read]] = []
        self.writes: list[list[tuple[Line, int]]] = []
        self.anomalies: list[Anomaly] = []
        self.undecided: dict[str, None] = {}
        self.unsure: list[Unsure] = []
        self.included: set[int] = set()  # the id() of those found to have taken effect
        self.lines = _lines(self.history)
        for line in self.lines.values():
            if line.doubt:
                self._doubt(line.name, line.doubt)
        for operation in self.history:
            if operation.outcome == OK:
                self._include(operation)
            else:
                for key, states in operation.writes.items():
                    self._note_other(self.lines[key], operation, states)
        self._resolve()
        for line in self.lines.values():
            self._order(line)
        self._scan()

    def _note_other(self, line: Line, operation: Operation, states: States) -> None:
        """Note what a transaction that failed, or is unknown, wrote or would have written."""
        for state in states:
            if operation.kind == APPEND:  # its value is an item, not the value of the key
                state = State(state.version, None)
            line.others.append((operation, state))
            if operation.outcome != FAILED:
                line.perhaps.add(state.text)

    def _include(self, operation: Operation, found: tuple[Line, int] | None = None) -> None:
        """Let a transaction have taken effect; `found` is a version that it is found to have made.

        The version is for an operation whose outcome is unknown and that could not record it.
        """
        node = len(self.nodes)
        self.nodes.append(operation)
        self.reads.append([])
        wrote: list[tuple[Line, int]] = []
        for key, states in operation.writes.items():
            line = self.lines[key]
            if line.doubt:
                continue
            for state in states[:-1]:
                if (between := line.made(state)) is not None:
                    line.between[between] = operation
            version, text = line.made(states[-1]), states[-1].text
            if operation.kind == APPEND:
                text = None
            if version is None and found is not None and found[0] is line:
                version = found[1]
            if version in line.writer:
                self._written_twice(line, version, operation)
            elif version is None:
                self._doubt(key, "what was written has no version")
            else:
                line.note(version, node, text)
                wrote.append((line, version))
        self.writes.append(wrote)

    def _written_twice(self, line: Line, version: int, operation: Operation) -> None:
        other = self.nodes[line.writer[version]]
        base = set(other.reads.get(line.name, ())) & set(operation.reads.get(line.name, ()))
        name = "lost update" if base else "duplicate version"
        text = f"both wrote version {version} of {line.name}"
        text += f", computed from {min(base)}" if base else ""
        self.anomalies.append(Anomaly(name, (line.name,), (other, operation), (), text))

    def _doubt(self, key: str, reason: str) -> None:
        self.undecided[f"{key}: {reason}"] = None

    def _resolve(self) -> None:
        """Find who wrote what each transaction read; those found are resolved in turn."""
        node = 0
        while node < len(self.nodes):
            operation = self.nodes[node]
            for key, states in operation.reads.items():
                for state in states:
                    self._read(node, self.lines[key], state)
            for found in operation.scans.values():
                for key, state in found.items():
                    self._read(node, self.lines[key], state)
            node += 1

    def _read(self, node: int, line: Line, state: State) -> None:
        if line.doubt:
            return
        operation = self.nodes[node]
        version = line.seen(state)
        if version is None:
            self._doubt(line.name, "what was read has no version")
            return
        if (line, version) in self.writes[node] or line.between.get(version) is operation:
            if operation.kind == CAS:  # it read before it wrote
                text = f"{_name(operation)} read {line.name} as {state}, which only it wrote"
                self._found("garbage read", line, [operation], text)
            return  # its own
        made = not version or self._is_made(line, version, state)
        if made or self._find(node, line, version, state):
            self.reads[node].append(Read(line, version))
            line.readers.setdefault(version, []).append(node)

    def _is_made(self, line: Line, version: int, state: State) -> bool:
        """Say whether a transaction that took effect made what was read, in the end."""
        text = line.texts.get(version)
        return version in line.writer and (None in (text, state.text) or text == state.text)

    def _find(self, node: int, line: Line, version: int, state: State) -> bool:
        """Look among those that failed, are unknown or wrote it on the way; False if an anomaly."""
        could = [(o, s) for o, s in line.others if _may_be(line, s, version, state)]
        unknown = [(o, s) for o, s in could if o.outcome != FAILED and id(o) not in self.included]
        if version not in line.writer:
            if len(unknown) == 1:
                chosen = unknown[0][0]
                self.included.add(id(chosen))
                self._include(chosen, (line, version))
                if self._is_made(line, version, state):
                    return True
            elif unknown:
                self._doubt(line.name, f"several unknown writes may have made version {version}")
                return False
        reader = self.nodes[node]
        failed = [
            operation
            for operation, made in could
            if operation.outcome == FAILED and (line.made(made) or made.text == state.text)
        ]
        if version in line.between:
            name, other = "intermediate read", [line.between[version]]
            why = "wrote and then overwrote"
        elif failed:
            name, other, why = "dirty read", failed[:1], "wrote and which failed"
        else:
            text = f"{_name(reader)} read {line.name} as {state}, which nobody wrote"
            if version in line.writer:
                other = [self.nodes[line.writer[version]]]
                text += f"; {_name(other[0])} wrote that version with another value"
            else:
                other = []
            self._found("garbage read", line, [*other, reader], text)
            return False
        text = f"{_name(reader)} read {line.name} as {state}, which {_name(other[0])} {why}"
        self._found(name, line, [*other, reader], text)
        return False

    def _found(self, name: str, line: Line, operations: list[Operation], text: str) -> None:
        self.anomalies.append(Anomaly(name, (line.name,), tuple(operations), (), text))

    def _order(self, line: Line) -> None:
        if not line.by_value:
            order = sorted({0, *line.writer, *line.readers})
            following: list[int] = []
            for version in reversed(order):
                line.after[version] = following
                if version in line.writer:
                    following = [version]
            return
        blind = []
        for version, node in line.writer.items():
            bases = [read.version for read in self.reads[node] if read.line is line]
            for base in bases:
                line.after.setdefault(base, []).append(version)
            if not bases:
                blind.append(version)
        if len(blind) > 1:
            self._doubt(line.name, "no versions were recorded, and writes did not read it before")
        # What was not written from what was read comes after all that led on from the beginning.
        end, passed = 0, set[int]()
        while line.after.get(end) and end not in passed:
            passed.add(end)
            end = line.after[end][0]
        for version in blind:
            if version != end and end not in passed:
                line.after.setdefault(end, []).append(version)

    def _scan(self) -> None:
        """Let scans have read the keys that they did not show as absent."""
        names = sorted(self.lines)
        for node, operation in enumerate(self.nodes):
            for prefix, found in operation.scans.items():
                for at in range(bisect_left(names, prefix), len(names)):
                    name = names[at]
                    if not name.startswith(prefix):
                        break
                    deleted = any(s.text == ABSENT for s in operation.writes.get(name, ()))
                    if name not in found and not deleted:
                        self._missed(node, prefix, self.lines[name])

    def _missed(self, node: int, prefix: str, line: Line) -> None:
        if line.doubt:
            return
        absent = line.by_text[ABSENT]
        if len(absent) > 1:
            self.unsure.append(Unsure(node, line, frozenset(absent)))
            return
        self.reads[node].append(Read(line, 0, prefix))
        line.readers.setdefault(0, []).append(node)


def _lines(history: list[Operation]) -> dict[str, Line]:
    """Return a line for each key; by value where one that took effect has no version."""
    written: dict[str, list[tuple[Operation, State]]] = {}
    for operation in history:
        for key in operation.reads:
            written.setdefault(key, [])
        for found in operation.scans.values():
            for key in found:
                written.setdefault(key, [])
        for key, states in operation.writes.items():
            written.setdefault(key, []).extend((operation, state) for state in states)
    return {key: _line(key, made) for key, made in written.items()}


def _line(key: str, written: list[tuple[Operation, State]]) -> Line:
    perhaps = [(each, state) for each, state in written if each.outcome != FAILED]
    sure = [(each, state) for each, state in perhaps if each.outcome == OK]
    by_value = any(state.version is None for _, state in sure or perhaps)
    line = Line(key, by_value)
    if by_value:
        values = [ABSENT, *(state.text for _, state in perhaps)]
        if None in values or any(each.kind == APPEND for each, _ in perhaps):
            line.doubt = "what was written has no version"
        elif len(set(values)) < len(values):
            line.doubt = "a value was written twice and no versions were recorded"
    return line


def _may_be(line: Line, made: State, version: int, seen: State) -> bool:
    """Say whether what was perhaps made is what was seen."""
    if not line.by_value and made.version is not None and made.version != version:
        return False
    return None in (made.text, seen.text) or made.text == seen.text


def _name(operation: Operation) -> str:
    return operation.id or f"line {operation.line}"
