"""What a checkpoint may make of stored values: nothing runs that the user did not allow."""

from __future__ import annotations

import base64
import gc
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import ormsgpack
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import StateGraph

import interlock
from interlock.adapters.langgraph import Saver, Store

THREAD: Any = {"configurable": {"thread_id": "thread"}}
CALL_WITH_ONE, CALL_WITH_MANY, CALL_METHOD, MODEL = 0, 1, 3, 5  # codes of LangGraph's serializer


@dataclass
class Flight:
    """A class of the user's own."""

    seat: str


class State(TypedDict):
    flights: Annotated[list[Any], operator.add]


@pytest.fixture
def space() -> Iterator[interlock.Space]:
    with interlock.open("sqlite://", agent="app") as opened:
        yield opened


def graph_of(saver: Saver) -> Any:
    builder = StateGraph(State)
    builder.add_node("look", lambda state: {"flights": []})
    builder.set_entry_point("look")
    return builder.compile(checkpointer=saver)


def crafted(space: interlock.Space, kind: str, data: bytes) -> None:
    """Put a value into every channel of the thread, as an agent could that writes to the store."""
    for key in space.scan("langgraph/blob/"):
        space.update(key, lambda _: [kind, base64.b64encode(data).decode()])


class Xor:
    """A cipher for tests."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "xor", bytes(each ^ 7 for each in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return bytes(each ^ 7 for each in ciphertext)


@pytest.mark.parametrize(
    "serde",
    [None, JsonPlusSerializer(), JsonPlusSerializer(allowed_msgpack_modules=[Flight]), "encrypted"],
)
@pytest.mark.parametrize("code", [CALL_WITH_ONE, CALL_WITH_MANY, CALL_METHOD, MODEL])
def test_a_crafted_checkpoint_runs_nothing(
    space: interlock.Space, tmp_path: Path, serde: Any, code: int
) -> None:
    saver = Saver(space, serde=EncryptedSerializer(Xor()) if serde == "encrypted" else serde)
    graph = graph_of(saver)
    graph.invoke({"flights": ["LH 1"]}, THREAD)
    proof = tmp_path / "ran"
    command: Any = f"touch {proof}"
    argument = {CALL_WITH_MANY: [command], MODEL: {"command": command}}.get(code, command)
    named = ["posix", "system", argument, "__call__"]
    hidden = ormsgpack.packb([{"deep": ormsgpack.Ext(code, ormsgpack.packb(named))}])
    crafted(space, "msgpack", hidden)
    with pytest.raises(interlock.Invalid, match="posix"):
        graph.invoke({"flights": ["LH 2"]}, THREAD)
    assert not proof.exists()


@pytest.mark.parametrize("kind", ["pickle", "json", "msgpack+"])
def test_other_encodings_are_not_read(space: interlock.Space, kind: str) -> None:
    graph = graph_of(Saver(space))
    graph.invoke({"flights": []}, THREAD)
    crafted(space, kind, b"cos\nsystem\n.")
    with pytest.raises(interlock.Invalid, match="never decoded"):
        graph.get_state(THREAD)


def test_a_serializer_that_unpickles_is_refused(space: interlock.Space) -> None:
    pickling = JsonPlusSerializer(pickle_fallback=True)
    for serde in (pickling, EncryptedSerializer(Xor(), pickling)):
        with pytest.raises(interlock.Invalid, match="pickle"):
            Saver(space, serde=serde)
    assert Saver(space, serde=pickling, allow=True).serde is pickling


def test_types_of_ones_own_are_read_where_they_are_allowed(space: interlock.Space) -> None:
    kept = [Flight("12A"), HumanMessage("hello"), AIMessage("hi"), {1, 2}, os.fspath("p"), b"raw"]
    graph_of(Saver(space)).invoke({"flights": kept}, THREAD)
    with pytest.raises(interlock.Invalid, match=r"'Flight'\).*allow="):
        graph_of(Saver(space)).get_state(THREAD)
    for allow in ([Flight], [(Flight.__module__, "Flight")], True):
        allowed: Any = allow
        state = graph_of(Saver(space, allow=allowed)).get_state(THREAD)
        assert state.values["flights"] == kept
    asked = Saver(space).with_allowlist([(Flight.__module__, "Flight")])  # as LangGraph may
    assert graph_of(asked).get_state(THREAD).values["flights"] == kept  # type: ignore[arg-type]  # it is a Saver
    with pytest.raises(interlock.Invalid, match="must be a class"):
        Saver(space, allow=["Flight"])  # type: ignore[list-item]  # a mistake


def test_an_encrypted_checkpoint_is_read(space: interlock.Space) -> None:
    saver = Saver(space, serde=EncryptedSerializer(Xor()), allow=[Flight])
    graph_of(saver).invoke({"flights": [Flight("12A")]}, THREAD)
    assert graph_of(saver).get_state(THREAD).values["flights"] == [Flight("12A")]
    assert "+xor" in str([entry.value for entry in space.log(prefix="langgraph/blob/")])


async def test_what_is_no_space_is_refused_at_once() -> None:
    for adapter in (Saver, Store):
        with pytest.raises(interlock.Invalid, match=rf"{adapter.__name__}\(interlock\.open"):
            adapter(7)  # type: ignore[arg-type]  # a mistake
        opening = interlock.open_async("sqlite://")
        with pytest.raises(interlock.Invalid, match="without await"):
            adapter(opening)  # type: ignore[arg-type]  # a mistake


async def test_adapters_open_a_space_from_a_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'own.db'}"
    with Saver.from_conn_string(url, space="s", agent="app", allow=[Flight]) as saver:
        saver.setup()
        graph_of(saver).invoke({"flights": [Flight("12A")]}, THREAD)
    async with Saver.from_conn_string(url, space="s", allow=[Flight]) as saver:
        assert (await graph_of(saver).aget_state(THREAD)).values["flights"] == [Flight("12A")]
    async with Store.from_conn_string(url) as store:
        store.setup()
        await store.aput(("a",), "k", {"n": 1})
        opened: Any = store.space
    with pytest.raises(interlock.Closed):
        await opened.read("k")
    assert await store.aget(("a",), "k") is not None  # which opens it again
    opened = store.space
    del store
    gc.collect()  # nobody refers to it
    with pytest.raises(interlock.Closed):
        opened.read("k")
    with Store.from_conn_string(url) as kept:
        assert kept.search(("a",))[0].value == {"n": 1}
    with pytest.raises(interlock.Invalid, match="unread="), Store.from_conn_string(url, unread="x"):
        pass
