"""The coordinator: every contribution counts exactly once in one shared value."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Any

import pytest

import interlock
from tests.contract.test_leases import elsewhere_while, never
from tests.facades import Facades, elsewhere

RULES = {"contrib/*": interlock.merged("append"), "draft/{agent}/**": interlock.private()}


pytestmark = [pytest.mark.interlock_space(agent="boss", rules=RULES)]


@pytest.fixture
def worker(facades: Facades, space: Any) -> Any:
    """Another agent, with the synchronous API, so that it can be called from anywhere."""
    return facades.peer("w1")


def add(value: list[Any], contribution: Any) -> list[Any]:
    return [*value, contribution["n"]]


def coordinator(space: Any, **options: Any) -> Any:
    return space.coordinator(
        "report", **{"source": "contrib/", "merge": add, "initial": [], **options}
    )


def test_contributions_are_merged_in_log_order(space: Any, worker: Any) -> None:
    for n in range(3):
        worker.append(f"contrib/w{n % 2}", {"n": n})
    boss = coordinator(space)
    progress = boss.catch_up()
    assert space.read("report").value == [0, 1, 2]
    assert (progress.merged, progress.rejected, progress.duplicates) == (3, 0, 0)
    worker.append("contrib/w1", {"n": 3})
    assert boss.catch_up().merged == 4
    assert space.read("report").value == [0, 1, 2, 3]
    assert boss.catch_up().merged == 4
    assert space.read("report").version == 2, "nothing new, nothing written"
    assert boss.progress().merged == 4
    assert (boss.name, boss.rejected) == ("report", "report/rejected/")


def test_another_coordinator_of_the_name_goes_on_where_it_stood(
    facades: Facades, space: Any, worker: Any
) -> None:
    worker.append("contrib/w1", {"n": 1})
    coordinator(space).catch_up()
    worker.append("contrib/w1", {"n": 2})
    assert coordinator(facades.open("heir")).catch_up().merged == 2
    assert space.read("report").value == [1, 2]


def test_it_waits_for_what_comes(facades: Facades, space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})
    running = iter(coordinator(space))
    assert next(running).merged == 1
    worker.create("elsewhere", 1)
    threading.Timer(0.05, worker.append, ("contrib/w1", {"n": 2})).start()
    assert next(running).merged == 2
    assert worker.read("report").value == [1, 2]
    with pytest.raises(interlock.Held, match="'boss' holds the lease"):
        elsewhere_while(facades, lambda: coordinator(worker, wait=0).catch_up())
    running.close()
    assert coordinator(worker, wait=0).catch_up().merged == 2


def test_private_keys_hold_contributions_too(facades: Facades, space: Any) -> None:
    worker = facades.open("w1")
    record = worker.create("draft/w1/a", {"n": 1})
    record = worker.write(record, {"n": 2})
    worker.delete(record)
    assert coordinator(space, source="draft/").catch_up().merged == 2
    assert space.read("report").value == [1, 2]


def test_the_same_contribution_counts_once(space: Any, worker: Any) -> None:
    for n, name in enumerate(["a", "b", "a", None, None]):
        worker.append("contrib/w1", {"n": n} if name is None else {"n": n, "id": name})
    boss = coordinator(space)
    assert boss.catch_up().duplicates == 1
    worker.append("contrib/w2", {"n": 9, "id": "b"})
    progress = boss.catch_up()
    assert (progress.merged, progress.duplicates) == (4, 2)
    assert space.read("report").value == [0, 1, 3, 4]
    assert "$coordinator" not in str(sorted(space.scan())), "its own notes are nobody's keys"


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("dedupe", "left"),
    [
        ("content", [1, 2]),
        (None, [1, 1, 2]),
        (lambda contribution: contribution["n"] % 1, [1]),
        (lambda contribution: None, [1, 1, 2]),
    ],
)
def test_what_the_same_is_can_be_chosen(space: Any, worker: Any, dedupe: Any, left: Any) -> None:
    for n in (1, 1, 2):
        worker.append("contrib/w1", {"n": n})
    coordinator(space, dedupe=dedupe).catch_up()
    assert space.read("report").value == left


def test_what_is_rejected_is_kept_with_its_reason(space: Any, worker: Any) -> None:
    def validate(contribution: Any) -> Any:
        if contribution["n"] == 1:
            return "one is too small"
        if contribution["n"] == 2:
            raise ValueError("two is even")
        return contribution["n"] != 3

    def merge(value: list[Any], contribution: Any) -> list[Any]:
        value.append(contribution["n"])  # changed in place, and then refused
        if contribution["n"] == 5:
            raise ValueError("five does not fit")
        return value

    for n in (0, 1, 2, 3, 4, 5, 6):
        worker.append("contrib/w1", {"n": n, "id": f"i{n}"})
    boss = coordinator(space, validate=validate, merge=merge)
    progress = boss.catch_up()
    assert space.read("report").value == [0, 4, 6]
    assert (progress.merged, progress.rejected) == (3, 4)
    kept = list(space.scan(boss.rejected).values())
    assert [record.value["reason"] for record in kept] == [
        "one is too small",
        "two is even",
        "it is not valid",
        "five does not fit",
    ]
    first = kept[0].value
    assert (first["contribution"], first["key"], first["agent"]) == (
        {"n": 1, "id": "i1"},
        "contrib/w1",
        "w1",
    )
    worker.append("contrib/w1", {"n": 1, "id": "i1"})
    assert boss.catch_up().duplicates == 1
    assert len(space.scan(boss.rejected)) == 4


def test_what_a_function_raises_leaves_nothing_behind(space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})
    worker.append("contrib/w1", {})
    position = space.position()
    named = r"cannot merge contribution 'contrib/w1' at position \d+: KeyError: 'n'"
    with pytest.raises(interlock.Invalid, match=named) as refused:
        coordinator(space, on_error="stop").catch_up()
    assert isinstance(refused.value.__cause__, KeyError)
    written = {entry.key for entry in space.log(position)}
    assert written == {"$readers"}, "it says only that it needs the log"
    assert coordinator(space, validate=lambda c: "n" in c, wait=0).catch_up().merged == 1


def test_a_malformed_contribution_is_kept_and_passed_by(
    space: Any, worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def dedupe(contribution: Any) -> Any:
        return {1} if contribution == "no JSON" else contribution.get("id")

    for bad in ({"id": "a"}, "no JSON", ["no object"]):
        worker.append("contrib/w1", bad)
        worker.append("contrib/w1", {"n": 1})
    boss = coordinator(space, dedupe=dedupe)
    progress = boss.catch_up()
    assert (progress.merged, progress.rejected) == (3, 3)
    assert space.read("report").value == [1, 1, 1]
    kept = [record.value for record in space.scan(boss.rejected).values()]
    assert [each["reason"].partition(":")[0] for each in kept] == [
        *("KeyError", "TypeError", "AttributeError")
    ]
    assert all((each["key"], each["agent"]) == ("contrib/w1", "w1") for each in kept)
    said = [record.getMessage() for record in caplog.records if "interlock" in record.name]
    assert len(said) == 3
    assert f"'contrib/w1' at position {kept[0]['position']}: \"KeyError: 'n'\"" in said[0]
    worker.append("contrib/w1", {"id": "a", "n": 2})
    assert boss.catch_up().merged == 4, "an error is no verdict: what was mended counts"


def test_a_reason_stops_nothing_however_long_and_whatever_its_text(space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})
    boss = coordinator(space, validate=lambda contribution: "\ud800" + "x" * 2**20)
    assert boss.catch_up().rejected == 1
    (kept,) = space.scan(boss.rejected).values()
    assert kept.value["reason"].startswith("?xxx")
    assert kept.value["contribution"] == {"n": 1}


class Unprintable(Exception):
    """It cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class UnprintableValue(Unprintable, ValueError):
    """The same, as a function rejects a contribution."""


@pytest.mark.any_store
@pytest.mark.parametrize("kind", [Unprintable, UnprintableValue])
def test_an_exception_that_cannot_be_shown_stops_no_coordinator(
    space: Any, worker: Any, kind: type[Exception]
) -> None:
    worker.append("contrib/w1", {"n": 1})

    def fails(contribution: Any) -> Any:
        raise kind

    boss = coordinator(space, validate=fails)
    assert boss.catch_up().rejected == 1
    (kept,) = space.scan(boss.rejected).values()
    assert f"<{kind.__name__} that cannot be shown>" in kept.value["reason"]


def test_what_is_no_fault_of_a_contribution_stops_the_coordinator(space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})

    def unreachable(contribution: Any) -> Any:
        raise ConnectionError("the service is away")

    boss = coordinator(space, validate=unreachable)
    with pytest.raises(ConnectionError) as problem:
        boss.catch_up()
    assert "contribution 'contrib/w1' at position" in problem.value.__notes__[0]
    assert space.scan(boss.rejected) == {}
    assert coordinator(space, wait=0).catch_up().merged == 1


@pytest.mark.interlock_space(
    agent="boss",
    max_value_bytes=1000,
    rules={
        **RULES,
        "state": interlock.guarded(
            machine=interlock.Machine(
                "m", field="is", initial="A", transitions={"A": ["B"], "B": ["C"]}
            )
        ),
    },
)
def test_a_contribution_whose_result_cannot_be_written_is_passed_by(
    space: Any, worker: Any
) -> None:
    for item in ("x" * 1200, "a", "y" * 600, "b", "z" * 600, "c"):
        worker.append("contrib/w1", {"n": item})
    boss = coordinator(space)
    assert boss.catch_up()[2:4] == (4, 2)
    assert space.read("report").value == ["a", "y" * 600, "b", "c"]
    large, small = (record.value for record in space.scan(boss.rejected).values())
    assert "the limit is 1,000" in large["reason"]
    assert large["contribution"] is None, "with the reason it would be too large itself"
    assert small["contribution"] == {"n": "z" * 600}
    with pytest.raises(interlock.Invalid, match="cannot merge contribution 'contrib/w1'"):
        coordinator(space, name="strict", on_error="stop").catch_up()

    def become(value: Any, contribution: Any) -> Any:
        return {"is": contribution["n"].upper()}

    into = space.coordinator(
        "state", source="contrib/", merge=become, validate=lambda c: len(c["n"]) == 1
    )
    assert into.catch_up()[2:4] == (3, 3), "each step is legal, all of them at once are not"
    assert space.read("state").value == {"is": "C"}


def test_reducers_merge_and_check_what_they_get(space: Any, worker: Any) -> None:
    for item in (3, "many", 4):
        worker.append("contrib/w1", item)
    assert space.coordinator("total", source="contrib/", merge="counter").catch_up().rejected == 1
    assert space.read("total").value == 7
    mine = interlock.Reducer("longest", lambda a, b: max(a, str(b), key=len), "")
    space.coordinator("longest", source="contrib/", merge=mine).catch_up()
    assert space.read("longest").value == "many"


def test_it_thinks_again_where_the_shared_value_moved(space: Any, worker: Any) -> None:
    moved: list[Any] = []

    def merge(value: list[Any], contribution: Any) -> list[Any]:
        if not moved:
            moved.append(worker.create("report", ["theirs"]))
        return add(value, contribution)

    worker.append("contrib/w1", {"n": 1})
    assert coordinator(space, merge=merge).catch_up().merged == 1
    assert space.read("report").value == ["theirs", 1]


def test_it_waits_while_somebody_has_the_shared_value_leased(space: Any, worker: Any) -> None:
    thoughts: list[Any] = []

    def merge(value: list[Any], contribution: Any) -> list[Any]:
        thoughts.append(value)
        return add(value, contribution)

    worker.append("contrib/w1", {"n": 1})
    with worker.lease("report") as lease:
        lease.write(["theirs"])
        threading.Timer(0.1, lease.release).start()
        assert coordinator(space, merge=merge).catch_up().merged == 1
    assert space.read("report").value == ["theirs", 1]
    assert thoughts == [["theirs"]], "it does not think in vain"


def test_a_replaced_coordinator_is_fenced(space: Any, worker: Any) -> None:
    """It slept for longer than its lease, in the middle of a merge."""

    def stall(value: list[Any], contribution: Any) -> list[Any]:
        if contribution["n"] == 1:
            worker.reclaim("report/coordinator")
            assert coordinator(worker).catch_up().merged == 1
        return add(value, contribution)

    worker.append("contrib/w1", {"n": 1})
    with pytest.raises(interlock.Fenced, match="report/coordinator"):
        coordinator(space, merge=stall).catch_up()
    assert space.read("report").value == [1]


def test_an_idle_coordinator_learns_that_it_was_replaced(
    facades: Facades, space: Any, worker: Any
) -> None:
    worker.append("contrib/w1", {"n": 1})
    running = iter(coordinator(space, ttl=0.1))
    assert next(running).merged == 1
    worker.reclaim("report/coordinator")
    with pytest.raises(interlock.Fenced):
        next(running)


def test_a_dead_coordinators_lease_runs_out(facades: Facades, space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})
    dead = space.lease("report/coordinator", 0.05)
    dead._renewed = never(facades)
    elsewhere(dead.acquire)
    assert coordinator(worker, wait=10).catch_up().merged == 1


def test_rules_hold_for_the_coordinator(space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})
    with pytest.raises(interlock.Forbidden, match="private"):
        space.coordinator("draft/w2/x", source="contrib/", merge=add, initial=[]).catch_up()
    space.apply_rules({**RULES, "report": interlock.leased()})
    with pytest.raises(interlock.Forbidden, match="needs its lease"):
        coordinator(space).catch_up()


def test_a_big_backlog_is_merged_in_several_commits(facades: Facades, space: Any) -> None:
    with space.transaction() as tx:
        for n in range(250):
            tx.append("contrib/w1", {"n": n})
    steps = [progress.merged for progress in islice(iter(coordinator(space)), 3)]
    assert steps == [100, 200, 250]
    assert space.read("report").value == list(range(250))


def test_two_jobs_of_one_name_are_told_apart(space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})
    coordinator(space).catch_up()
    with pytest.raises(interlock.Invalid, match="merges 'contrib/' into 'report', not 'draft/'"):
        coordinator(space, source="draft/").catch_up()
    with pytest.raises(interlock.Invalid, match="another name"):
        coordinator(space, source="draft/").progress()
    worker.create("mine/coordinator", "my own")
    with pytest.raises(interlock.Invalid, match="not a coordinator's"):
        coordinator(space, name="mine").catch_up()
    assert coordinator(space, name="other").catch_up().merged == 1


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"into": "a//b"}, "empty segment"),
        ({"source": "a*"}, "prefix"),
        ({"source": ""}, "would read its own"),
        ({"source": "rep"}, "would read its own"),
        ({"source": "report/rejected/"}, "would read its own"),
        ({"name": "contrib/x"}, "would read its own"),
        ({"name": ""}, "key"),
        ({"merge": "adding"}, "merge='adding' must be a function or one of append"),
        ({"merge": None}, "merge=None"),
        ({"validate": "x"}, "validate='x'"),
        ({"dedupe": "name"}, "dedupe='name'"),
        ({"on_error": "skip"}, "on_error='skip' must be 'reject' or 'stop'"),
        ({"name": "n" * 490}, "too long"),
    ],
)
def test_a_malformed_coordinator_is_invalid(
    space: Any, options: dict[str, Any], names: str
) -> None:
    arguments = {"into": "report", "source": "contrib/", "merge": add, **options}
    with pytest.raises(interlock.Invalid, match=names):
        space.coordinator(arguments.pop("into"), **arguments)


def test_functions_may_be_async_with_the_asyncio_facade_only(facades: Facades, space: Any) -> None:
    async def think(value: list[Any], contribution: Any) -> list[Any]:
        return add(value, contribution)

    space.append("contrib/w1", {"n": 1})
    if facades.kind == "async":
        assert coordinator(space, merge=think).catch_up().merged == 1
    else:
        with pytest.raises(interlock.Invalid, match="open_async"):
            coordinator(space, merge=think)


def test_a_coordinator_refuses_a_merge_that_returns_none(space: Any, worker: Any) -> None:
    worker.append("contrib/w1", {"n": 1})
    coordinator(space).catch_up()
    worker.append("contrib/w1", {"n": 2})

    def forgets(value: list[Any], contribution: Any) -> Any:
        value.append(contribution["n"])

    with pytest.raises(interlock.Invalid, match="merge returned None: is a return missing"):
        coordinator(space, merge=forgets, on_error="stop").catch_up()
    assert space.read("report").value == [1]
    assert coordinator(space).catch_up().merged == 2
    assert space.read("report").value == [1, 2]
