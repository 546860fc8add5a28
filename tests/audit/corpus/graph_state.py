"""LangGraph state: each builder is marked; the finding may be in its node, its state or itself."""

import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import Command, Send


def last(left, right):
    return right


def grow(left, right):
    left.extend(right)
    return left


def joined(left, right):
    return left + right


class Plain(TypedDict):
    topic: str
    notes: list
    facts: Annotated[list, operator.add]
    latest: Annotated[list, last]


def note_a(state: Plain):
    return {"notes": ["a"]}


def note_b(state: Plain):
    return {"notes": ["b"]}


def fact_a(state: Plain):
    return {"facts": ["a"]}


def fact_b(state: Plain):
    return {"facts": ["b"]}


def latest_a(state: Plain):
    return {"latest": ["a"]}


def latest_b(state: Plain):
    return {"latest": ["b"]}


def command_note(state: Plain):
    return Command(update={"notes": ["c"]}, goto=END)


def doubled(state: Plain):
    return {"facts": state["facts"] + ["new"]}


def doubled_append(state: Plain):
    facts = state["facts"]
    facts.append("new")
    return {"facts": facts}


def doubled_star(state: Plain):
    return {"facts": [*state.get("facts", []), "new"]}


def send_all(state: Plain):
    return [Send("note_a", {"topic": each}) for each in state["facts"]]


def send_facts(state: Plain):
    return [Send("fact_a", {"topic": each}) for each in state["facts"]]


def both(state: Plain):
    return ["note_a", "note_b"]


def one(state: Plain):
    return "note_a" if state["topic"] else "note_b"


def fan_out():  # racy: note_b
    g = StateGraph(Plain)
    g.add_node("note_a", note_a)
    g.add_node("note_b", note_b)
    g.add_edge(START, "note_a")
    g.add_edge(START, "note_b")
    return g.compile()


def fan_out_command():  # racy: note_a
    g = StateGraph(Plain)
    g.add_node("note_a", note_a)
    g.add_node("c", command_note)
    g.add_edge(START, "note_a")
    g.add_edge(START, "c")
    return g.compile()


def noting(text):
    def note(state: Plain):
        return {"notes": [text]}

    return note


def spread_in_a_loop(texts):  # racy: noting.note
    g = StateGraph(Plain)
    for text in texts:
        g.add_node(text, noting(text))
        g.add_edge(START, text)
    return g.compile()


def sent():  # racy: note_a
    g = StateGraph(Plain)
    g.add_node("note_a", note_a)
    g.add_conditional_edges(START, send_all, ["note_a"])
    return g.compile()


def routed_to_both():  # racy: note_b
    g = StateGraph(Plain)
    g.add_node("note_a", note_a)
    g.add_node("note_b", note_b)
    g.add_conditional_edges(START, both, ["note_a", "note_b"])
    return g.compile()


def dropping_reducer():  # racy: latest_b
    g = StateGraph(Plain)
    g.add_node("latest_a", latest_a)
    g.add_node("latest_b", latest_b)
    g.add_edge(START, "latest_a")
    g.add_edge(START, "latest_b")
    return g.compile()


def doubling():  # racy: doubled
    g = StateGraph(Plain)
    g.add_node("doubled", doubled)
    g.add_edge(START, "doubled")
    return g.compile()


def doubling_append():  # racy: doubled_append
    g = StateGraph(Plain)
    g.add_node("doubled_append", doubled_append)
    g.add_edge(START, "doubled_append")
    return g.compile()


def doubling_star():  # racy: doubled_star
    g = StateGraph(Plain)
    g.add_node("doubled_star", doubled_star)
    g.add_edge(START, "doubled_star")
    return g.compile()


class AddsDict(TypedDict):
    found: Annotated[dict, operator.add]


def unfit():  # racy: AddsDict
    g = StateGraph(AddsDict)
    return g


class Grows(TypedDict):
    found: Annotated[list, grow]


def growing():  # racy: Grows
    g = StateGraph(Grows)
    return g


class Subtracts(TypedDict):
    budget: Annotated[int, operator.sub]


def subtracting():  # racy: Subtracts
    g = StateGraph(Subtracts)
    return g


# What looks like it and is not.


class Safe(TypedDict):
    topic: str
    draft: str
    notes: Annotated[list, operator.add]
    joined: Annotated[list, joined]
    merged: Annotated[dict, operator.or_]
    messages: Annotated[list, add_messages]
    total: Annotated[int, operator.add]


def s_note_a(state: Safe):
    return {"notes": ["a"]}


def s_note_b(state: Safe):
    return {"notes": ["b"]}


def drafting(text):
    def draft(state: Safe):
        return {"draft": text}

    return draft


def one_after_the_other(texts):  # safe
    g = StateGraph(Safe)
    before = START
    for text in texts:
        g.add_node(text, drafting(text))
        g.add_edge(before, text)
        before = text
    return g.compile()


def s_draft(state: Safe):
    return {"draft": "x"}


def s_topic(state: Safe):
    return {"topic": "x"}


def s_joined(state: Safe):
    return {"joined": [1]}


def s_joined_too(state: Safe):
    return {"joined": [2], "merged": {"a": 1}}


def s_messages(state: Safe):
    return {"messages": [state["messages"][-1]], "total": 1}


def s_total(state: Safe):
    return {"total": 1}


def s_send(state: Safe):
    return [Send("s_note_a", {})]


def s_route(state: Safe):
    return "s_draft" if state["topic"] else "s_topic"


def reduced():  # safe
    g = StateGraph(Safe)
    g.add_node("s_note_a", s_note_a)
    g.add_node("s_note_b", s_note_b)
    g.add_edge(START, "s_note_a")
    g.add_edge(START, "s_note_b")
    return g.compile()


def sequential():  # safe
    g = StateGraph(Safe)
    g.add_node("s_draft", s_draft)
    g.add_node("again", s_draft)
    g.add_edge(START, "s_draft")
    g.add_edge("s_draft", "again")
    return g.compile()


def different_keys():  # safe
    g = StateGraph(Safe)
    g.add_node("s_draft", s_draft)
    g.add_node("s_topic", s_topic)
    g.add_edge(START, "s_draft")
    g.add_edge(START, "s_topic")
    return g.compile()


def one_of_two():  # safe
    g = StateGraph(Safe)
    g.add_node("s_draft", s_draft)
    g.add_node("again", s_draft)
    g.add_conditional_edges(START, s_route, {"a": "s_draft", "b": "again"})
    return g.compile()


def own_reducer():  # safe
    g = StateGraph(Safe)
    g.add_node("s_joined", s_joined)
    g.add_node("s_joined_too", s_joined_too)
    g.add_edge(START, "s_joined")
    g.add_edge(START, "s_joined_too")
    return g.compile()


def sent_with_reducer():  # safe
    g = StateGraph(Safe)
    g.add_node("s_note_a", s_note_a)
    g.add_conditional_edges(START, s_send, ["s_note_a"])
    return g.compile()


def messages_and_total():  # safe
    g = StateGraph(Safe)
    g.add_node("s_messages", s_messages)
    g.add_node("s_total", s_total)
    g.add_edge(START, "s_messages")
    g.add_edge(START, "s_total")
    return g.compile()


def joined_after():  # safe
    g = StateGraph(Safe)
    g.add_node("s_note_a", s_note_a)
    g.add_node("s_note_b", s_note_b)
    g.add_node("s_draft", s_draft)
    g.add_edge(START, "s_note_a")
    g.add_edge(START, "s_note_b")
    g.add_edge(["s_note_a", "s_note_b"], "s_draft")
    return g.compile()


def cycle():  # safe
    g = StateGraph(Safe)
    g.add_node("s_draft", s_draft)
    g.add_edge(START, "s_draft")
    g.add_edge("s_draft", "s_draft")
    return g.compile()


def chained():  # safe
    g = StateGraph(Safe).add_node("s_draft", s_draft).add_edge(START, "s_draft")
    return g
