"""The simulator's settings: durations, seeded times, the serial lower bound."""

from __future__ import annotations

import pytest

from interlock.verify.simulate.settings import Settings, parse_multiple, parse_think


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("50ms", (0.05, 0.05)),
        ("0.2s", (0.2, 0.2)),
        ("20ms-60ms", (0.02, 0.06)),
        ("1s-2s", (1.0, 2.0)),
        ("500us - 2ms", (0.0005, 0.002)),
        ("0ms", (0.0, 0.0)),
        ("1m", (60.0, 60.0)),
    ],
)
def test_a_duration_or_a_range_is_read(text: str, seconds: tuple[float, float]) -> None:
    assert parse_think(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20", "units"),
        ("", "is not a duration"),
        ("fast", "is not a duration"),
        ("-5ms", "is not a duration"),
        ("20-60ms", "is not a duration"),
        ("1ms-2ms-3ms", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("nan", "is not a duration"),
        ("\u0663ms", "is not a duration"),
        ("60ms-20ms", "shorter one first"),
        ("61m", "longer than one thought may be"),
    ],
)
def test_a_bad_duration_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_think(text)


def test_a_multiple_is_read() -> None:
    assert [parse_multiple(text) for text in ("2x", "0.5", "10x")] == [2.0, 0.5, 10.0]


@pytest.mark.parametrize("text", ["0x", "x", "-1x", "inf", "nanx", "2000x"])
def test_a_bad_multiple_says_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match="is not a multiple such as 2x"):
        parse_multiple(text)


def test_the_seed_fixes_think_times_and_the_order_of_arrival() -> None:
    def times(seed: int) -> list[float]:
        settings = Settings(agents=20, writes=3, seed=seed, arrivals=2.0)
        thinking = [settings.think_time(agent, write) for agent in range(20) for write in range(3)]
        return [*thinking, *settings.arrival_times()]

    assert times(7) == times(7)
    assert times(7) != times(8)
    arrivals = list(Settings(seed=7, agents=20, arrivals=2.0).arrival_times())
    assert arrivals != sorted(arrivals)


def test_think_times_lie_in_the_range() -> None:
    settings = Settings(think=(0.02, 0.06), seed=3)
    times = [settings.think_time(agent, 0) for agent in range(1000)]
    assert 0.02 <= min(times) < 0.021
    assert 0.059 < max(times) <= 0.06


def test_without_arrivals_all_begin_at_once_and_the_bound_is_the_sum_of_the_think_times() -> None:
    settings = Settings(agents=9, writes=2, seed=5)
    assert set(settings.arrival_times()) == {0.0}
    total = sum(settings.think_time(agent, write) for agent in range(9) for write in range(2))
    assert settings.lower_bound() == pytest.approx(total)


def test_the_bound_is_that_of_the_busiest_key() -> None:
    settings = Settings(agents=10, keys=3, think=(0.05, 0.05))
    assert settings.used_keys() == ["document/0", "document/1", "document/2"]
    assert settings.lower_bound() == pytest.approx(4 * 0.05)


def test_keys_without_an_agent_are_not_used() -> None:
    assert Settings(agents=2, keys=5).used_keys() == ["document/0", "document/1"]


@pytest.mark.parametrize(
    ("rate", "keys", "writes", "gap"), [(2.0, 1, 1, 0.02), (1.0, 2, 1, 0.02), (2.0, 1, 3, 0.06)]
)
def test_agents_arrive_steadily_at_the_multiple_of_what_their_keys_can_serve(
    rate: float, keys: int, writes: int, gap: float
) -> None:
    settings = Settings(agents=5, think=(0.04, 0.04), arrivals=rate, keys=keys, writes=writes)
    assert sorted(settings.arrival_times()) == pytest.approx([gap * place for place in range(5)])


def test_a_key_that_waits_for_its_agents_is_bound_by_the_last_arrival() -> None:
    settings = Settings(agents=5, think=(0.04, 0.04), arrivals=0.5)
    assert settings.lower_bound() == pytest.approx(4 * 0.08 + 0.04)
