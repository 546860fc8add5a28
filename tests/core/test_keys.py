"""Values come back exactly; keys, prefixes and names keep their grammar; what patterns match."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interlock
from interlock.core.keys import (
    DEFAULT_MAX_VALUE_BYTES,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    check_key,
    check_name,
    check_prefix,
    decode,
    decode_large,
    decode_many,
    encode,
    fixed_prefix,
    matches,
    narrower,
    owner,
    prefix_end,
    shared_key,
)
from interlock.core.refusals import Invalid
from interlock.core.rules import RuleSet
from interlock.core.rules import check as check_rules

BIG = 10**1200
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-BIG, BIG)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
surrogates = st.builds(
    "{}{}{}".format, st.text(max_size=3), st.characters(categories=["Cs"]), st.text(max_size=3)
)
steps = st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=5)

PRINTABLE = st.characters(
    exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"], exclude_characters="*{}/"
)
segments = st.lists(st.text(PRINTABLE, min_size=1, max_size=6), min_size=1, max_size=3).map(
    " ".join
)
keys = (
    st.lists(segments.filter(lambda segment: segment not in (".", "..")), min_size=1, max_size=5)
    .map("/".join)
    .filter(lambda key: not key.startswith("$"))
)
unprintable = st.characters(categories=["Cc", "Cf", "Co", "Cn", "Zl", "Zp"])


def text_of(value: Any) -> str:
    body = encode(value)
    assert isinstance(body, str), body
    return body


def buried(value: Any, path: list[int | str]) -> Any:
    """Return `value` inside lists and objects, with good values beside it."""
    for step in path:
        value = {"beside": 1, step: value} if isinstance(step, str) else [*range(step), value, None]
    return value


def circular_list() -> Any:
    value: list[Any] = []
    value.append([value])
    return value


def circular_object() -> Any:
    value: dict[str, Any] = {}
    value["again"] = {"inner": value}
    return value


@given(json_values)
def test_a_value_comes_back_exactly_with_its_types_and_order(value: Any) -> None:
    body = text_of(value)
    assert repr(decode(body)) == repr(value)
    assert text_of(decode(body)) == body
    body.encode()


@given(json_values, st.data())
def test_a_large_text_is_decoded_as_json_does(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    cut, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 2))
    put = data.draw(
        st.sampled_from([*'0-+.eE"\\/u,:[]{} \n\t\x00\x1f\x7f\ud800\udc00é', "NaN", "1e999"])
    )
    for each in (text, text[:cut] + put * data.draw(st.integers(0, 1)) + text[cut + length :]):
        assert decoded(decode_large, each) == decoded(json.loads, each)


def decoded(decoder: Any, text: str) -> str:
    try:
        return repr(decoder(text))
    except (ValueError, RecursionError) as problem:
        return type(problem).__name__


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "-Infinity",
        "1e999",
        '"\\ud800"',
        '"\ud800"',
        "-0",
        "-0.0",
        "9" * 5000,
        "[" * 5000,
        "1" * 400,
        "1E5",
        "0.1e-7",
        "5e-324",
        "1.7976931348623159e308",
        '{"a":1,"b":2,"a":3}',
        "\ufeff1",
        "",
        " 1 ",
    ],
)
def test_odd_texts_are_decoded_as_json_does(text: str) -> None:
    assert decoded(decode_large, text) == decoded(json.loads, text)


def test_a_value_of_many_characters_comes_back_exactly() -> None:
    value = {"big": 10**30, "text": "é" * 70_000, "float": 0.1, "list": [1, 1.0, True, None]}
    assert repr(decode(text_of(value))) == repr(value)


@given(st.lists(json_values, max_size=5))
def test_many_values_decode_as_one_by_one(values: list[Any]) -> None:
    texts = [text_of(value) for value in values]
    assert repr(decode_many(texts)) == repr([decode(text) for text in texts])


def test_no_text_is_no_value_and_null_is_one() -> None:
    assert decode(None) is None
    assert (encode(None), decode("null")) == ("null", None)


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63) - 1, 2**64, BIG + 1, -BIG - 1])
def test_a_big_integer_is_not_rounded(number: int) -> None:
    back = decode(text_of({"n": number}))["n"]
    assert (type(back), back) == (int, number)


NOT_JSON: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "set": {1},
    "frozenset": frozenset("a"),
    "object": object(),
    "complex": 1j,
    "decimal": Decimal(1),
    "datetime": datetime(2020, 1, 1, tzinfo=UTC),
    "generator": (n for n in range(3)),
    "circular list": circular_list(),
    "circular object": circular_object(),
    "over-long integer": 10**5000,
    **{f"{key!r} as key": {key: "item"} for key in (1, 1.5, True, None, b"k", (1, 2))},
}


@pytest.mark.parametrize("wrong", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_invalid_wherever_it_stands(wrong: Any) -> None:
    @settings(max_examples=25)
    @given(steps)
    def check(path: list[int | str]) -> None:
        refusal = encode(buried(wrong, path))
        assert isinstance(refusal, Invalid)
        assert not refusal.retryable
        refusal.message.encode()

    check()


@given(surrogates, steps, st.booleans())
def test_a_lone_surrogate_is_invalid_in_values_and_in_keys(
    text: str, path: list[int | str], as_key: bool
) -> None:
    refusal = encode(buried({text: 1} if as_key else text, path))
    assert isinstance(refusal, Invalid)
    assert "lone surrogate" in refusal.message
    refusal.message.encode()


def test_the_refusal_says_where_the_wrong_thing_is() -> None:
    refusal = encode({"a": [0, {"b": {1}}]})
    assert isinstance(refusal, Invalid)
    assert "value['a'][1]['b'] is a set" in refusal.message
    refusal = encode({"a": {7: 1}})
    assert isinstance(refusal, Invalid)
    assert "value['a'] has the key 7 (an int)" in refusal.message


@given(json_values)
def test_the_limit_of_a_value_counts_utf8_bytes(value: Any) -> None:
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    assert encode(value, size) == text_of(value)
    refusal = encode(value, size - 1)
    assert isinstance(refusal, Invalid)
    assert f"{size:,} bytes" in refusal.message
    assert f"limit is {size - 1:,}" in refusal.message


@pytest.mark.parametrize("letter", ["a", "é", "€", "\U0001f600"])
def test_the_default_limit_is_one_mebibyte_of_utf8(letter: str) -> None:
    size = len(letter.encode())
    most = (DEFAULT_MAX_VALUE_BYTES - 2) // size  # two quotes
    assert isinstance(encode(letter * most), str)
    refusal = encode(letter * (most + 1))
    assert isinstance(refusal, Invalid)
    assert "max_value_bytes" in refusal.message
    assert DEFAULT_MAX_VALUE_BYTES == 2**20


@given(keys)
def test_a_path_of_printable_segments_is_a_key(key: str) -> None:
    assert (check_key(key) is None) == (len(key.encode()) <= MAX_KEY_BYTES)


@pytest.mark.parametrize(
    "key",
    ["a", "plan.md", "booking/session_123", "a/$b", "a$", "...", "a/.b", "a b/c d", "ключ/鍵", "-"],
)
def test_keys_that_look_odd_are_keys(key: str) -> None:
    assert check_key(key) is None


@given(keys, st.data())
def test_no_key_holds_a_character_of_patterns_or_one_that_cannot_be_printed(
    key: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(key)))
    character = data.draw(st.sampled_from("*{}") | unprintable)
    wrong = key[:at] + character + key[at:]
    assert isinstance(check_key(wrong), Invalid)
    assert isinstance(check_prefix(wrong), Invalid)


@given(keys, st.data())
def test_no_segment_is_empty_a_folders_name_or_ends_in_white_space(
    key: str, data: st.DataObject
) -> None:
    parts = key.split("/")
    at = data.draw(st.integers(0, len(parts) - 1))
    worse = data.draw(st.sampled_from(["", ".", "..", " ", " " + parts[at], parts[at] + " "]))
    refusal = check_key("/".join([*parts[:at], worse, *parts[at + 1 :]]))
    assert isinstance(refusal, Invalid)
    for wrong in ("/" + key, key + "/", "$" + key):
        assert isinstance(check_key(wrong), Invalid)


@pytest.mark.parametrize("wrong", [None, 7, b"k", ["k"], ("a",), "", "\ud800", "a\udfff/b"])
def test_what_is_not_text_in_utf8_is_no_key_and_no_name(wrong: Any) -> None:
    assert isinstance(check_key(wrong), Invalid)
    assert isinstance(check_name("agent", wrong), Invalid)
    assert isinstance(check_prefix(wrong), Invalid) == (wrong != "")


@pytest.mark.parametrize("letter", ["a", "é", "€", "\U0001f600"])
def test_the_limits_of_keys_prefixes_and_names_count_utf8_bytes(letter: str) -> None:
    for check, limit in (
        (check_key, MAX_KEY_BYTES),
        (check_prefix, MAX_KEY_BYTES),
        (lambda name: check_name("space", name), MAX_NAME_BYTES),
    ):
        most = letter * (limit // len(letter.encode()))
        assert check(most) is None
        refusal = check(most + letter)
        assert isinstance(refusal, Invalid)
        assert str(limit) in refusal.message
    assert (MAX_KEY_BYTES, MAX_NAME_BYTES) == (512, 128)


@given(keys)
def test_whatever_begins_a_key_is_a_prefix(key: str) -> None:
    for end in range(len(key) + 1):
        assert check_prefix(key[:end]) is None


@given(st.text(PRINTABLE, min_size=1, max_size=20), st.sampled_from(["{}\n", "\t{}", " {}", "{} "]))
def test_a_name_is_printable_text_without_white_space_at_its_ends(name: str, wrong: str) -> None:
    assert check_name("agent", name) is None
    refusal = check_name("agent", wrong.format(name))
    assert isinstance(refusal, Invalid)
    assert "Agent" in refusal.message


# Neighbours among code points, where one step up changes the length in UTF-8 or skips surrogates.
EDGES = "ab\x7f\x80\ud7ff\ue000\uffff\U00010000\U0010fffe\U0010ffff"


def test_prefix_end_bounds_exactly_the_texts_with_the_prefix_in_sqlite() -> None:
    texts = ["".join(letters) for n in range(4) for letters in itertools.product(EDGES, repeat=n)]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE texts (text TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.executemany("INSERT INTO texts VALUES (?)", [(text,) for text in texts])
        for prefix in texts[: 1 + len(EDGES) + len(EDGES) ** 2]:
            rows = connection.execute(
                "SELECT text FROM texts WHERE text >= ?1 AND (?2 IS NULL OR text < ?2)",
                (prefix, prefix_end(prefix)),
            )
            assert {text for (text,) in rows} == {t for t in texts if t.startswith(prefix)}


@settings(max_examples=200)
@given(st.text(max_size=4) | st.text(EDGES, max_size=4), st.text(max_size=5), st.text(max_size=3))
def test_prefix_end_bounds_exactly_the_texts_with_the_prefix_in_bytes(
    prefix: str, text: str, suffix: str
) -> None:
    end = prefix_end(prefix)
    for each in (text, prefix + suffix, prefix[:-1] + suffix, (end or "") + suffix):
        inside = prefix.encode() <= each.encode() and (end is None or each.encode() < end.encode())
        assert inside == each.startswith(prefix)


def test_nothing_ends_the_prefixes_that_reach_to_the_last_code_point() -> None:
    assert prefix_end("") is None
    assert prefix_end("\U0010ffff" * 3) is None
    assert prefix_end("a\U0010ffff") == "b"
    assert prefix_end("a\ud7ff") == "a\ue000"


wild_segments = st.sampled_from(["a", "b", "*", "{agent}"])
some_patterns = st.builds(
    lambda parts, rest: "/".join([*parts, "**"] if rest else parts),
    st.lists(wild_segments, min_size=1, max_size=3),
    st.booleans(),
).filter(lambda pattern: pattern.count("{agent}") <= 1)
EVERY_KEY = [
    "/".join(parts)
    for size in range(1, 5)
    for parts in itertools.product(["a", "b", "x"], repeat=size)
]


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("plan.md", ["plan.md"], ["plan", "plan.md/x"]),
        ("booking/*", ["booking/1"], ["booking", "booking/1/2"]),
        ("booking/**", ["booking/1", "booking/1/2"], ["booking", "bookings/1"]),
        ("agent/{agent}/**", ["agent/ann/notes", "agent/ann/a/b"], ["agent/ann"]),
        ("**", ["a", "a/b/c"], []),
        ("*/x", ["a/x"], ["x", "a/b/x"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, inside: list[str], outside: list[str]) -> None:
    assert [key for key in [*inside, *outside] if matches(pattern, key)] == inside


@given(some_patterns, some_patterns)
def test_narrower_and_shared_are_about_the_keys(one: str, other: str) -> None:
    first = {key for key in EVERY_KEY if matches(one, key)}
    second = {key for key in EVERY_KEY if matches(other, key)}
    assert narrower(one, other) == (first <= second)
    example = shared_key(one, other)
    assert (example is not None) == bool(first & second)
    if example is not None:
        assert matches(one, example)
        assert matches(other, example)
    assert all(key.startswith(fixed_prefix(one)) for key in first)


@given(st.sets(some_patterns, min_size=1, max_size=4))
def test_a_set_that_is_not_ambiguous_has_one_narrowest_rule_for_each_key(found: set[str]) -> None:
    declared = {pattern: interlock.guarded() for pattern in found}
    if check_rules(declared) is not None:
        return
    rules = RuleSet(1, declared)
    for key in EVERY_KEY:
        matching = [pattern for pattern in found if matches(pattern, key)]
        best, _ = rules.match(key)
        assert best in matching or (not matching and best == "")
        assert all(narrower(best, pattern) for pattern in matching)


def test_the_owner_stands_in_the_key() -> None:
    assert owner("agent/{agent}/**", "agent/ann/notes") == "ann"
    assert owner("agent/*", "agent/ann") is None
