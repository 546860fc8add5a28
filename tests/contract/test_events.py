"""Events: typed values through one stream, on every store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest

import interlock
from interlock.core import append, log, trim, types
from interlock.core.append import FOLD_EVERY
from tests.facades import Facades


@dataclass(frozen=True)
class Paid:
    order: int


@dataclass(frozen=True)
class Sent:
    order: int
    to: str = "home"


@dataclass(frozen=True)
class Lost:
    order: int


RULES = {
    "orders": interlock.merged("append"),
    "wrong/*": interlock.merged("append"),
    "tags": interlock.merged("union"),
    "booking": interlock.guarded(),
}
pytestmark = pytest.mark.interlock_space(agent="ann", rules=RULES)


def orders(space: Any) -> Any:
    return space.events("orders", Paid, Sent)


def events(entries: Any) -> list[Any]:
    return [each.event for each in entries]


def test_an_event_that_was_erased_is_left_out(space: Any) -> None:
    stream = orders(space)
    stream.append(Paid(1), id="one")
    stream.append(Paid(2))
    space.erase("orders", where=lambda entry: entry.value["order"] == 1)
    assert events(stream.read()) == [Paid(2)]
    stream.append(Paid(1), id="one")  # it was there, and is not added again
    assert events(stream.read()) == [Paid(2)]


def test_events_are_read_as_they_were_appended(space: Any) -> None:
    first = orders(space).append(Paid(1))
    second = orders(space).append(Sent(1, to="work"))
    assert (first.event, first.agent) == (Paid(1), "ann")
    assert (second.position, second.event) == (first.position + 1, Sent(1, "work"))
    assert first.at == next(space.history("orders")).at
    assert list(orders(space).read()) == [first, second]
    assert list(orders(space).read(after=first.position)) == [second]
    assert list(orders(space).read(newest_first=True)) == [second, first]
    assert space.read("orders").value == [
        {"$type": "Paid", "order": 1},
        {"$type": "Sent", "order": 1, "to": "work"},
    ]


def test_a_replay_is_the_events_alone(facades: Facades, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one pass where they are as they were appended, one by one where somebody else was."""
    monkeypatch.setattr(log, "VALUES", 3)
    space, bob = (facades.open(name, rules=RULES) for name in ("ann", "bob"))
    stream = orders(space)
    tricky = 'a\nb\n{"$type":"Paid","order":1}, "$version" \u2028 \N{SNOWMAN}'
    stream.append_many([Paid(1), Sent(1, to=tricky), Paid(2), Sent(2)])
    space.create("booking", 1)
    stream.append(Paid(3), id="gone")
    orders(bob).append_many([Paid(4), Sent(4)])
    space.erase("orders", where=lambda entry: entry.value["order"] == 3)
    found = [Paid(1), Sent(1, to=tricky), Paid(2), Sent(2), Paid(4), Sent(4)]
    assert list(stream.replay()) == found == events(stream.read())
    assert list(stream.replay(types=Paid)) == [Paid(1), Paid(2), Paid(4)]
    assert list(stream.replay(after=next(stream.read(limit=1)).position)) == found[1:]
    assert list(space.events("never", Paid).replay()) == []
    space.append("orders", {"order": 5, "$type": "Paid"})
    space.append("orders", {"order": 6, "by": [1], "$type": "Paid"})
    space.append("orders", {"$type": "Paid", "order": 7, "by": {"$type": "Sent"}})
    found += [Paid(5), Paid(6), Paid(7)]
    assert list(stream.replay()) == found == events(stream.read())
    assert list(stream.replay(types=Sent)) == [Sent(1, to=tricky), Sent(2), Sent(4)]
    space.append("orders", {"$type": "Paid", "$version": 1, "order": 8})
    assert list(stream.replay(types=Paid))[-1] == Paid(8)
    stream.append_many([Paid(9)])
    monkeypatch.setattr(types, "_upcasts", {Paid: {1: lambda old: {"order": old["order"] + 100}}})
    assert list(stream.replay(types=Paid))[-1] == Paid(109)
    monkeypatch.undo()
    found += [Paid(8), Paid(9)]
    assert stream.project(lambda all, event: [*all, event], []).refresh() == found


def test_the_same_id_is_one_event(space: Any) -> None:
    first = orders(space).append(Paid(1), id="payment-1")
    assert orders(space).append(Sent(7), id="payment-1") == first
    assert events(orders(space).read()) == [Paid(1)]


def test_many_events_are_one_commit(space: Any) -> None:
    stream = orders(space)
    entries = stream.append_many([Paid(1), Sent(1), Paid(2)], op_id="batch")
    assert events(entries) == [Paid(1), Sent(1), Paid(2)]
    assert len({each.op_id for each in space.history("orders")}) == 1
    assert stream.append_many([Paid(1), Sent(1), Paid(2)], op_id="batch") == entries
    assert list(stream.read()) == entries
    assert stream.append_many([]) == []


def test_appending_to_a_long_stream_does_not_fold_it(
    facades: Facades, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fold of all events, every few of them, would cost more the more there are."""
    space = facades.open("ann", rules=RULES, durability="off")
    orders(space).append_many([Paid(n) for n in range(FOLD_EVERY - 1)])
    monkeypatch.setattr(append, "ask", lambda *_: pytest.fail("it was folded"))
    orders(space).append(Paid(FOLD_EVERY))
    orders(space).append_many([Paid(n) for n in range(FOLD_EVERY)])
    monkeypatch.undo()
    assert len(space.read("orders").value) == 2 * FOLD_EVERY


def test_some_types_of_some_agent_and_no_more_than_asked(facades: Facades) -> None:
    ann, bob = (facades.open(name, rules=RULES) for name in ("ann", "bob"))
    ann.create("booking", 1)
    orders(ann).append_many([Paid(1), Sent(1), Paid(2)])
    orders(bob).append_many([Paid(3), Sent(3)])
    stream = ann.events("orders", Paid | Sent)
    assert events(stream.read(types=Paid)) == [Paid(1), Paid(2), Paid(3)]
    assert events(stream.read(types=(Paid, Sent), agent="bob")) == [Paid(3), Sent(3)]
    assert events(stream.read(types=Paid, limit=2)) == [Paid(1), Paid(2)]
    assert events(stream.read(types=Paid, agent="ann", newest_first=True)) == [Paid(2), Paid(1)]
    watched = stream.watch(after=0, types=Sent)
    assert events(islice(watched, 2)) == [Sent(1), Sent(3)]


def test_events_of_other_keys_are_not_of_the_stream(facades: Facades) -> None:
    space = facades.open("us", rules={"*": interlock.merged("append")})
    space.events("orders", Paid).append(Paid(1))
    space.events("orders2", Paid).append(Paid(2))
    assert events(space.events("orders", Paid).read()) == [Paid(1)]
    count = space.events("orders", Paid).project(lambda n, _: n + 1, 0)
    assert count.refresh() == 1


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("append", "said"),
    [
        (lambda stream: stream.append(Lost(1)), "expected one of Paid, Sent, got Lost"),
        (lambda stream: stream.append({"$type": "Paid", "order": 1}), "got dict"),
        (lambda stream: stream.append(Paid("x")), r"Expected int, got str at \$\.order"),  # type: ignore[arg-type]  # on purpose
        (lambda stream: stream.append_many([Paid(1), None]), "got NoneType"),
        (lambda stream: stream.append(Paid(1), id=""), "id"),
    ],
)
def test_what_is_no_event_of_the_stream_is_not_appended(
    space: Any, append: Callable[[Any], object], said: str
) -> None:
    before = space.position()
    with pytest.raises(interlock.Invalid, match=said):
        append(orders(space))
    assert space.position() == before


def test_a_key_that_is_no_stream_is_refused_and_says_how_to_declare_it(space: Any) -> None:
    before = space.position()
    for key in ("tags", "booking", "undeclared"):
        stream, said = space.events(key, Paid), rf'{{{key!r}: interlock\.merged\("append"\)'
        with pytest.raises(interlock.Forbidden, match=said):
            stream.append(Paid(1))
        with pytest.raises(interlock.Forbidden, match=said):
            stream.append_many([Paid(1)])
    assert space.position() == before


def test_a_stream_that_another_process_has_declared_meanwhile_is_one(facades: Facades) -> None:
    early = facades.open("us")
    facades.open("us", rules=RULES)
    assert orders(early).append(Paid(1)).event == Paid(1)


WRONG: tuple[tuple[Any, str], ...] = (
    ({"$type": "Lost", "order": 1}, r"\(\$type 'Lost'\)"),
    ({"$type": "Paid", "order": "x"}, r"\(\$type 'Paid'\).*\$\.order"),
    ({"order": 1}, r"\(\$type None\)"),
    ("Paid", r"\(\$type None\)"),
    ({"$type": ["Paid"], "order": 1}, r"\(\$type \['Paid'\]\)"),
    ({"$type": "Paid", "$version": 9, "order": 1}, r".*version 9"),
)


def test_what_is_no_event_is_an_error_when_read(space: Any) -> None:
    for n, (stored, what) in enumerate(WRONG):
        stream = space.events(f"wrong/{n}", Paid, Sent)
        stream.append(Sent(1))
        position = space.append(stream.key, stored).position
        stream.append(Sent(2))
        said = f"{stream.key}' at position {position} {what}"
        entries = stream.read()
        assert next(entries).event == Sent(1)
        with pytest.raises(interlock.Invalid, match=said):
            next(entries)
        with pytest.raises(interlock.Invalid, match=said):
            next(stream.watch(after=position - 1))
        with pytest.raises(interlock.Invalid, match=said):
            stream.project(lambda n, _: n + 1, 0).refresh()
        with pytest.raises(interlock.Invalid, match=said):
            list(stream.replay())
        assert events(stream.read(types=Sent)) == [Sent(1), Sent(2)]
        assert list(stream.replay(types=Sent)) == [Sent(1), Sent(2)]


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda stream: stream.read(types=Lost), "Lost"),
        (lambda stream: stream.read(types="Paid"), "Paid"),
        (lambda stream: stream.watch(types=()), "no class"),
        (lambda stream: stream.read(after=-1), "after=-1"),
        (lambda stream: stream.replay(after=-1), "after=-1"),
        (lambda stream: stream.replay(types=Lost), "Lost"),
        (lambda stream: stream.read(limit=0), "limit=0"),
        (lambda stream: stream.read(agent=3), "agent"),
        (lambda stream: stream.watch(after="x"), "after='x'"),
        (lambda stream: stream.project(3, 0), "fold=3"),
        (lambda stream: stream.project(max, 0, version=0), "version=0"),
    ],
)
def test_a_malformed_question_is_invalid(space: Any, read: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(interlock.Invalid, match=said):
        next(iter(read(orders(space))), None)


def test_a_stream_needs_a_key_and_classes_of_different_names(space: Any) -> None:
    def other() -> type[object]:
        @dataclass
        class Paid:
            order: int

        return Paid

    for key, classes in (("", (Paid,)), ("orders", ()), ("orders", (int,)), ("o", (Paid, other()))):
        with pytest.raises(interlock.Invalid):
            space.events(key, *classes)


def paid(total: dict[str, int], event: Any) -> dict[str, int]:
    return {**total, str(event.order): total.get(str(event.order), 0) + 1}


def test_events_are_folded_and_the_fold_is_kept(space: Any) -> None:
    stream = orders(space)
    stream.append_many([Paid(1), Sent(1), Paid(2)])
    view = stream.project(paid, {}, types=Paid, name="paid", snapshot_every=1)
    assert view.refresh() == {"1": 1, "2": 1}
    stream.append_many([Paid(2), Sent(2)])
    folded: list[Any] = []
    again = stream.project(
        lambda total, event: folded.append(event) or paid(total, event),  # type: ignore[func-returns-value]  # a list's append
        {},
        types=Paid,
        name="paid",
    )
    assert again.refresh() == {"1": 1, "2": 2}
    assert folded == [Paid(2)]  # the others are in what was kept
    with pytest.raises(interlock.Invalid, match="version="):
        space.projection(lambda total, entry: total, initial={}, name="paid").refresh()


def test_old_events_are_lifted_when_read(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = orders(space)
    stream.append(Sent(1))
    space.append("orders", {"$type": "Paid", "no": 7})
    monkeypatch.setattr(types, "_upcasts", {})
    interlock.upcast(Paid, 1, lambda old: {"order": old["no"]})
    assert events(stream.read()) == [Sent(1), Paid(7)]
    assert list(stream.replay()) == [Sent(1), Paid(7)]
    assert stream.project(lambda found, event: [*found, event], []).refresh() == [Sent(1), Paid(7)]
    stream.append(Paid(8))
    last = next(stream.read(newest_first=True))
    assert last.event == Paid(8)
    assert list(stream.replay(types=Paid)) == [Paid(7), Paid(8)]
    assert space.read("orders").value[-1] == {"$type": "Paid", "$version": 2, "order": 8}


def test_a_page_at_a_time_is_read_backwards(
    facades: Facades, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few of many entries, small ones and large ones: each once, from the last to the first."""
    monkeypatch.setattr(log, "PAGE", 8)
    space = facades.open("ann", rules=RULES, durability="off")
    space.append_many("orders", [{"n": n} for n in range(30)])
    with space.transaction() as tx:
        for n in range(40):
            tx.create(f"k/{n:02}", "x" * (900_000 if 20 <= n < 30 else 10))
    space.append("orders", {"n": 30})
    everything = list(space.log())
    assert list(space.log(newest_first=True)) == everything[::-1]
    for prefix in ("k/", "k/1", "orders", "none"):
        found = [each for each in everything if each.key.startswith(prefix)]
        assert list(space.log(prefix=prefix, newest_first=True)) == found[::-1]
    assert list(space.log(after=60, newest_first=True)) == everything[:59:-1]
    assert list(space.log(newest_first=True, limit=2)) == everything[:-3:-1]
    for before in (1, 12, 60, 72, 1000):
        found = everything[: before - 1]
        assert list(space.log(before=before)) == found
        assert list(space.log(before=before, newest_first=True)) == found[::-1]
        assert list(space.log(5, "k/", before=before)) == [e for e in found[5:] if e.key[0] == "k"]


def test_the_log_is_sifted_by_agent_kind_and_number(facades: Facades) -> None:
    ann, bob = (facades.open(name, rules=RULES) for name in ("ann", "bob"))
    ann.create("a", 1)
    bob.delete(bob.create("b", 2))
    bob.append("orders", 3)
    everything = list(ann.log())
    asked: list[tuple[dict[str, Any], list[Any]]] = [
        ({"agent": "bob"}, [e for e in everything if e.agent == "bob"]),
        ({"agent": "bob", "kinds": "put"}, [e for e in everything if e.key == "b"][:1]),
        ({"kinds": ["delete", "append"]}, everything[-2:]),
        ({"limit": 2}, everything[:2]),
        ({"agent": "bob", "limit": 1, "prefix": "b"}, [e for e in everything if e.key == "b"][:1]),
        ({"agent": "carol"}, []),
    ]
    for options, expected in asked:
        assert list(ann.log(**options)) == expected
        if "limit" not in options:
            assert list(ann.log(newest_first=True, **options)) == expected[::-1]
    assert list(ann.log(agent="bob", limit=1, newest_first=True)) == everything[-1:]


@pytest.mark.any_store
@pytest.mark.parametrize(
    "options",
    [
        {"agent": ""},
        {"agent": 3},
        {"kinds": "write"},
        {"kinds": []},
        {"kinds": [1]},
        {"kinds": 1},
        {"limit": 0},
        {"limit": True},
        {"limit": "2"},
        {"after": -1, "newest_first": True},
        {"prefix": 3},
        {"before": -1},
        {"before": "9"},
    ],
)
def test_a_malformed_filter_of_the_log_is_invalid(space: Any, options: Any) -> None:
    with pytest.raises(interlock.Invalid):
        next(space.log(**options), None)


@pytest.mark.interlock_needs("trimming")
def test_what_was_trimmed_is_not_left_out_of_a_replay(
    space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "KEPT_AT_LEAST", 0.0)
    stream = orders(space)
    entries = stream.append_many([Paid(n) for n in range(5)])
    space.create("booking", 1)
    space.trim(keep=0, before=entries[-1].position + 1)
    stream.append(Sent(1))
    assert list(stream.replay()) == [Sent(1)]
    with pytest.raises(interlock.Pruned):
        list(stream.replay(after=entries[0].position))


@pytest.mark.interlock_needs("trimming")
def test_what_was_trimmed_is_not_left_out_silently_backwards(
    space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "KEPT_AT_LEAST", 0.0)
    for n in range(6):
        space.update("k", lambda _, n=n: n)
    space.trim(keep=0, before=4)
    kept = list(space.log())
    assert list(space.log(newest_first=True)) == kept[::-1]
    assert kept[0].position == 4
    with pytest.raises(interlock.Pruned):
        next(space.log(after=1, newest_first=True))
    assert json.loads(json.dumps(kept[0].to_dict()))["at"] == kept[0].at.isoformat()
