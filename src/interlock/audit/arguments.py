"""The arguments of calls: what they say of keys, fields and compares."""

from __future__ import annotations

import re

from interlock.audit.sql import VERSIONS
from interlock.audit.stores import Call
from interlock.audit.value import Flow, Value


def complete(call: Call | None, positional: list[Value], named: dict[str, Value]) -> bool:
    """Say whether a call gives all keys and a value, so that it can be this store's method."""
    if call is None:
        return True
    missing = {"key": 0, "value": 0}
    values = 0
    for each in call.parameters:
        given = each.keyword in named or each.position < len(positional)
        values += given and each.role in ("value", "doc")
        if not given and each.role == "key":
            missing["key"] += 1
    writes = call.action == "write" and any(
        each.role in ("value", "doc") for each in call.parameters
    )
    return missing["key"] == 0 and (values > 0 or not writes)


def is_default(value: Value) -> bool:
    """Say whether a value is a constant or was given, not computed or read."""
    worked_out = value.marks & {"computed", "model", "arithmetic", "unique"}
    return not value.flows and not worked_out and "(" not in value.text and "@" not in value.text


def document(value: Value) -> tuple[set[Flow], set[str], set[str]]:
    """Return what an update document sets to given values: data, fields, marks."""
    flows: set[Flow] = set()
    fields: set[str] = set()
    marks: set[str] = set()
    if value.kind != "dict":
        return set(value.flows), set(), set(value.marks)
    for operator, inner in value.parts:
        if operator == "$set":
            if inner.kind == "dict":
                for name, each in inner.parts:
                    flows |= each.flows
                    marks |= each.marks
                    fields.add(name.split(".")[0])
            else:
                flows |= inner.flows
                marks |= inner.marks
        elif not operator.startswith("$"):
            flows |= inner.flows
    return flows, fields, marks


_IDS = re.compile(r"(?i)^(_?id|pk|key|uuid|name|slug|email|\w+_id|\w+_key|\w+_name)$")


def compared(where: list[tuple[str, Value]], fields: set[str]) -> str:
    """Return the column by which a write's condition compares what was read, or nothing."""
    for column, value in where:
        name = column.split(".")[-1]
        old = any(flow.part not in ("", "=") for flow in value.flows) and not _IDS.match(name)
        if VERSIONS.match(name) or old or (name in fields and not _IDS.match(name)):
            return name
    return ""


_MANAGERS = re.compile(r"(?i)(manager|service|repo|repository|dao|crud|store|storage)$")


def managed_id(
    base: Value | None, positional: list[Value], named: dict[str, Value]
) -> Value | None:
    """Return the id that a method of a manager is called with, or None."""
    cls = base.about if base is not None else None
    if base is None or base.flows or not _MANAGERS.search(getattr(cls, "name", "")):
        return None
    known = (value for name, value in named.items() if re.search("(^|_)(id|key)$", name))
    return next(known, positional[0] if positional and not named else None)


def noun_of(method: str) -> str:
    """Return what a method's name says is read or written: get_session -> session."""
    words = [each for each in method.strip("_").split("_") if each]
    rest = [
        w
        for w in words[1:]
        if w
        not in {
            "by",
            "id",
            "async",
            "or",
            "none",
            "data",
            "all",
            "json",
            "one",
            "from",
            "to",
            "in",
            "for",
            "the",
            "key",
            "sync",
        }
    ]
    return "_".join(each.rstrip("s") for each in rest)


NO_NOUNS = {
    *(
        "dotenv",
        "env",
        "model",
        "models",
        "image",
        "images",
        "file",
        "files",
        "text",
        "json",
        "yaml",
        "csv",
        "module",
        "plugin",
        "plugins",
    ),
    *(
        "dataset",
        "tokenizer",
        "prompt",
        "prompts",
        "template",
        "logger",
        "client",
        "session",
        "attr",
        "trace",
        "level",
        "name",
        "id",
    ),
    *(
        "weights",
        "checkpoint",
        "url",
        "html",
        "page",
        "tools",
        "messages",
        "bytes",
        "event_loop",
        "verbose",
        "documents",
        "embeddings",
    ),
}
