"""Write skew, read skew and phantoms, attempted by eight real processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import interlock
from tests.processes.writers import disagreements, together

AGENTS, EACH = 8, 12
DOCTORS = ["ann", "ben", "cleo"]


def everybody(target: Any, url: str) -> list[Any]:
    """Run `target(space, chance, number)` in eight processes at once; return what each returned."""
    return together(_run, AGENTS, target, url)


def _run(target: Any, url: str, number: int, gate: Any, answers: Any) -> None:
    with interlock.open(url, agent=f"a{number}") as space:
        gate.wait()
        answers.put(target(space, random.Random(number), number))


def withdraw(space: interlock.Space, chance: random.Random, number: int) -> int:
    """Take 10 from one of two accounts as long as both together stay at 0 or above."""
    taken = 0

    def decide(tx: interlock.Tx) -> bool:
        a, b = tx.read("account/a"), tx.read("account/b")
        if a.value + b.value < 10:
            return False
        chosen = chance.choice([a, b])
        tx.write(chosen, chosen.value - 10)
        return True

    for _ in range(EACH):
        taken += 10 * space.transact(decide, attempts=1000)
    return taken


def test_two_accounts_never_go_below_zero_together(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'accounts.db'}"
    with interlock.open(url) as space:
        space.create("account/a", 300)
        space.create("account/b", 300)
        taken = sum(everybody(withdraw, url))
        left = sum(record.value for record in space.scan("account/").values())
        assert taken == 600 - left
        assert left == 0
        balances = {"account/a": 300, "account/b": 300}
        for entry in space.log():
            balances[entry.key] = entry.value
            assert sum(balances.values()) >= 0
        assert disagreements(space) == []


def move(space: interlock.Space, chance: random.Random, number: int) -> int:
    """Even agents move money between the accounts; odd ones must always see the same sum."""
    wrong = 0
    for _ in range(EACH):
        if number % 2:
            seen = space.read_many(["account/a", "account/b"])
            wrong += sum(record.value for record in seen.values()) != 100
            with_scan = space.transact(
                lambda tx: sum(r.value for r in tx.scan("account/").values()), attempts=1000
            )
            wrong += with_scan != 100
            continue
        amount = chance.randrange(1, 20)

        def transfer(tx: interlock.Tx, amount: int = amount) -> None:
            a, b = tx.read("account/a"), tx.read("account/b")
            tx.write(a, a.value - amount)
            tx.write(b, b.value + amount)

        space.transact(transfer, attempts=1000)
    return wrong


def test_nobody_sees_half_a_transfer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'transfers.db'}"
    with interlock.open(url) as space:
        space.create("account/a", 50)
        space.create("account/b", 50)
        assert sum(everybody(move, url)) == 0
        assert space.position() == 2 + 2 * EACH * AGENTS // 2
        for position in range(2, space.position() + 1, 2):
            past = space.at(position=position).scan("account/")
            assert sum(record.value for record in past.values()) == 100


def take_turns_off(space: interlock.Space, chance: random.Random, number: int) -> int:
    """Each doctor leaves only while another one stays, and comes back."""
    doctor = DOCTORS[number % len(DOCTORS)]

    def change(tx: interlock.Tx) -> None:
        on_call = tx.scan("on_call/")
        mine = tx.read(f"on_call/{doctor}")
        if not mine.exists:
            tx.create(mine.key, doctor)
        elif len(on_call) > 1:
            tx.delete(mine)

    for _ in range(EACH):
        space.transact(change, attempts=1000)
    return 0


def test_somebody_is_always_on_call(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'doctors.db'}"
    with interlock.open(url) as space:
        for doctor in DOCTORS:
            space.create(f"on_call/{doctor}", doctor)
        everybody(take_turns_off, url)
        there: set[str] = set()
        for entry in space.log():
            there = there - {entry.key} if entry.kind == "delete" else there | {entry.key}
            assert there, f"nobody is on call after position {entry.position}"
        assert space.position() > len(DOCTORS)


def claim(space: interlock.Space, chance: random.Random, number: int) -> list[str]:
    """Claim names that nobody has, whatever key the claim is under."""
    mine: list[str] = []
    for n in range(EACH):
        name = f"name-{chance.randrange(20)}"

        def choose(tx: interlock.Tx, name: str = name, n: int = n) -> bool:
            if any(record.value == name for record in tx.scan("claim/").values()):
                return False
            tx.create(f"claim/{number}-{n}", name)
            return True

        if space.transact(choose, attempts=1000):
            mine.append(name)
    return mine


def test_a_name_is_claimed_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'names.db'}"
    with interlock.open(url) as space:
        claimed = [name for names in everybody(claim, url) for name in names]
        stored = [record.value for record in space.scan("claim/").values()]
        assert len(set(stored)) == len(stored) >= 15
        assert sorted(claimed) == sorted(stored)
