"""The tools of the MCP server as clients see them: names, descriptions, schemas.  A table.

What they do is in `calls`.  The schemas are also what arguments are checked against, so they
cannot say more or less than what is enforced.
"""

from __future__ import annotations

from dataclasses import dataclass

import mcp_types as types

from interlock import Json
from interlock.server.mcp.agents import LONGEST_LEASE, LONGEST_WAIT

MOST_KEYS = 100  # in one read
MOST_LISTED = 1000  # keys or entries in one answer

Schema = dict[str, Json]

_ANY = ["object", "array", "string", "number", "boolean", "null"]


def _text(description: str, most: int = 512) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": most, "description": description}


def _whole(description: str, least: int = 0, most: int = 2**53) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "description": description}


_KEY = _text("The key: a path such as 'booking/123' or 'plan.md'.")
_PREFIX: Schema = {
    "type": "string",
    "maxLength": 512,
    "description": "Only keys that begin with this text, such as 'booking/'. Without it: all.",
}
_VALUE: Schema = {
    "type": _ANY,
    "description": "The whole new value: any JSON, given as it is and not as text that holds JSON.",
}
_VERSION = _whole(
    "The `version` of the record that you decided from, exactly as your last read or write of this "
    "key returned it (0 for a key that was never written)."
)
_EPOCH = _whole("The `epoch` of that same record, exactly as it was returned.")
_OP_ID = _text(
    "Optional: a name of your own for this one operation. Sending the same call again with the "
    "same op_id, such as after a timeout, applies it once and returns what it did the first time. "
    "Take a fresh one for each new operation.",
    64,
)
_LEASE_ID = _text("The `lease_id` that take_lease returned, where you hold the key's lease.", 64)
_FIELDS: Schema = {
    "type": "object",
    "description": "The fields to set, each with its new JSON value. Other fields stay.",
}
_WRITE = {"version": _VERSION, "epoch": _EPOCH, "op_id": _OP_ID, "lease_id": _LEASE_ID}
_AFTER = _whole("Only what comes after this position of the log. Without it: the latest entries.")
_KINDS: Schema = {
    "type": "array",
    "items": {"type": "string", "enum": ["put", "append", "delete"]},
    "minItems": 1,
    "description": "Only entries of these kinds.",
}
_LIMIT = _whole("At most this many (default 50).", 1, MOST_LISTED)
_SECONDS: Schema = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": LONGEST_LEASE,
    "description": f"How long you need it, from now (at most {LONGEST_LEASE:g}; default 300).",
}

_EXPIRES: Schema = {
    "type": "number",
    "exclusiveMinimum": 0,
    "description": "Optional: seconds after which the key does not exist any more. Without "
    "it the value stays, or as long as the key's rule says.",
}

_RECORD: Schema = {
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "value": {"description": "The JSON value; null where the key does not exist."},
        "version": {"type": "integer", "description": "Pass it back when you write this key."},
        "epoch": {"type": "integer", "description": "Pass it back when you write this key."},
        "exists": {"type": "boolean"},
        "writer": {"type": ["string", "null"], "description": "The agent that wrote it."},
        "at": {"type": ["string", "null"], "description": "When, in ISO 8601."},
        "expires_at": {
            "type": "string",
            "description": "From when on the key does not exist any more, if it expires.",
        },
    },
}
_ENTRY: Schema = {"type": "object", "description": "One commit of one key: who wrote what, when."}
_RESULTS: dict[str, Schema] = {
    "record": _RECORD,
    "records": {"type": "array", "items": _RECORD},
    "entry": _ENTRY,
    "entries": {"type": "array", "items": _ENTRY},
    "next_after": {
        "type": ["integer", "string", "null"],
        "description": "Pass it as `after` for what follows, now or later.",
    },
    "more": {"type": "boolean", "description": "Whether more follows now."},
    "lease": {"type": "object", "description": "Its lease_id, key, and the seconds left."},
    "applied": {"type": "boolean"},
    "written": {"type": "array", "items": {"type": "object"}},
    "agent": {"type": "string", "description": "The name that your writes are logged under."},
    "space": {"type": "string"},
    "position": {"type": "integer", "description": "The last position of the log."},
    "rules": {"type": "array", "items": {"type": "object"}},
    "read_only": {"type": "boolean"},
    "replayed": {
        "type": "boolean",
        "description": "True where an earlier sending of this op_id did it.",
    },
}
_REFUSAL: Schema = {
    "type": "object",
    "description": "Why nothing was done, and what to do next. The key is as it was, unless `kind` "
    "is Unknown.",
    "properties": {
        "kind": {"type": "string"},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "next_step": {"type": "string"},
        "record": _RECORD,
    },
    "required": ["kind", "message", "retryable", "next_step"],
}


@dataclass(frozen=True)
class Tool:
    """One tool: `results` names what its answer holds beside `ok` and `refusal`."""

    name: str
    title: str
    description: str
    properties: dict[str, Schema]
    required: tuple[str, ...]
    results: tuple[str, ...]
    reads: bool = False
    destroys: bool = False
    repeatable: bool = False

    @property
    def input_schema(self) -> Schema:
        """The JSON schema of its arguments."""
        return {
            "type": "object",
            "properties": self.properties,
            "required": list(self.required),
            "additionalProperties": False,
        }

    @property
    def output_schema(self) -> Schema:
        """The JSON schema of its structured content, refusals included."""
        results = {name: _RESULTS[name] for name in self.results}
        return {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}, **results, "refusal": _REFUSAL},
            "required": ["ok"],
        }

    def described(self) -> types.Tool:
        """Return it as `tools/list` answers it."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.input_schema,
            output_schema=self.output_schema,
            annotations=types.ToolAnnotations(
                title=self.title,
                read_only_hint=self.reads,
                destructive_hint=self.destroys,
                idempotent_hint=self.repeatable or self.reads,
                open_world_hint=False,
            ),
        )


_READERS = (
    Tool(
        "about",
        "About this space",
        "Who you are here (`agent`) and how keys may be written: which are merged (use append), "
        "bound to a state machine (use transition; the states are listed), written by one agent "
        "only, or leased. Call it first.",
        {},
        (),
        ("agent", "space", "position", "rules", "read_only"),
        reads=True,
    ),
    Tool(
        "read",
        "Read keys",
        "Read one key or several as of one moment. Each record holds `value`, `version` and "
        "`epoch`; keep version and epoch: every write of the key asks for them. A key that does "
        "not exist comes back with exists=false.",
        {
            "keys": {
                "type": "array",
                "items": _KEY,
                "minItems": 1,
                "maxItems": MOST_KEYS,
                "description": f"The keys to read, 1 to {MOST_KEYS}.",
            }
        },
        ("keys",),
        ("records",),
        reads=True,
    ),
    Tool(
        "list_keys",
        "List keys",
        "List the keys that exist, in order, with version, epoch, writer and time, and with their "
        "values if asked.",
        {
            "prefix": _PREFIX,
            "values": {"type": "boolean", "description": "Return the values, too."},
            "after": _text("Only keys after this one: the `next_after` of the last answer."),
            "limit": _LIMIT,
        },
        (),
        ("records", "next_after", "more"),
        reads=True,
    ),
    Tool(
        "read_at",
        "Read the past",
        "Read keys as they were at an earlier moment: after a position of the log, or at a time. "
        "To write, read the key again with `read`: an old version is refused.",
        {
            "keys": {"type": "array", "items": _KEY, "minItems": 1, "maxItems": MOST_KEYS},
            "position": _whole("The moment after this position of the log."),
            "time": _text("The moment, in ISO 8601 with a zone: '2026-11-21T09:30:00+00:00'."),
        },
        ("keys",),
        ("records",),
        reads=True,
    ),
    Tool(
        "history",
        "History of a key",
        "Every version of one key, oldest first: who wrote it, when, and what. Without `after`, "
        "the latest ones.",
        {"key": _KEY, "after": _AFTER, "limit": _LIMIT},
        ("key",),
        ("entries", "next_after", "more"),
        reads=True,
    ),
    Tool(
        "log",
        "Log of all commits",
        "What happened in the space, in order: every write of every key. To follow what others do, "
        "pass the `next_after` of the last answer as `after`.",
        {
            "prefix": _PREFIX,
            "agent": _text("Only what this agent wrote.", 100),
            "kinds": _KINDS,
            "after": _AFTER,
            "limit": _LIMIT,
        },
        (),
        ("entries", "next_after", "more"),
        reads=True,
    ),
    Tool(
        "outcome",
        "What became of an operation",
        "Say whether a write of `key` that you named with `op_id` was applied, such as after an "
        "answer that never came or a refusal of kind Unknown.",
        {"key": _KEY, "op_id": _OP_ID},
        ("key", "op_id"),
        ("applied", "written"),
        reads=True,
    ),
)

_WRITERS = (
    Tool(
        "create",
        "Create a key",
        "Make a key that must not exist. Refused with Conflict, and the record that is there, if "
        "somebody made it before.",
        {"key": _KEY, "value": _VALUE, "expires": _EXPIRES, "op_id": _OP_ID},
        ("key", "value"),
        ("record", "replayed"),
    ),
    Tool(
        "write",
        "Write a key",
        "Replace the whole value of a key, computed from the record that you read: pass its "
        "version and epoch back. If anybody wrote in between, nothing is written and you get a "
        "Conflict with the fresh `record`: decide again from it, then write with its version and "
        "epoch. Never resend your old value with the new version.",
        {"key": _KEY, "value": _VALUE, "expires": _EXPIRES, **_WRITE},
        ("key", "value", "version", "epoch"),
        ("record", "replayed"),
        destroys=True,
    ),
    Tool(
        "update_fields",
        "Update fields",
        "Set or remove some fields of a key that holds an object. Fields that others changed "
        "meanwhile are kept. Refused with Conflict only where one of *your* fields was changed "
        "since the version that you read: decide again from the fresh `record`.",
        {
            "key": _KEY,
            "fields": _FIELDS,
            "remove": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Names of fields to remove.",
            },
            **_WRITE,
        },
        ("key", "version", "epoch"),
        ("record", "replayed"),
        destroys=True,
    ),
    Tool(
        "patch",
        "Change parts of an object",
        "As update_fields, but `changes` is a JSON Merge Patch: an object inside it changes parts "
        "of the object there, and null removes a field.",
        {
            "key": _KEY,
            "changes": {**_FIELDS, "description": "A JSON Merge Patch (RFC 7396)."},
            **_WRITE,
        },
        ("key", "changes", "version", "epoch"),
        ("record", "replayed"),
        destroys=True,
    ),
    Tool(
        "append",
        "Append to a merged key",
        "Add one contribution to a key that the rules declare as merged (see `about`). Needs no "
        "read and never conflicts. With op_id, the same contribution sent twice counts once.",
        {"key": _KEY, "item": {**_VALUE, "description": "The contribution."}, "op_id": _OP_ID},
        ("key", "item"),
        ("entry", "replayed"),
    ),
    Tool(
        "transition",
        "Move a state machine",
        "Move the state of a key that is bound to a machine (see `about`), and set other fields "
        "with it. A step that the machine does not have is refused with the states that are "
        "`allowed` from where it is.",
        {"key": _KEY, "to": _text("The state to go to."), "fields": _FIELDS, "op_id": _OP_ID},
        ("key", "to"),
        ("record", "replayed"),
        destroys=True,
    ),
    Tool(
        "delete",
        "Delete a key",
        "Delete a key, if it is still at the version that you read. Its history stays readable.",
        {"key": _KEY, **_WRITE},
        ("key", "version", "epoch"),
        ("record", "replayed"),
        destroys=True,
    ),
    Tool(
        "take_lease",
        "Take the exclusive right to write a key",
        "For long work on one key: until you release it or the time is over, nobody else can write "
        "the key. Write it with write, update_fields or delete: pass `lease_id`, and the version "
        "and epoch of the record that this returns. Release it as soon as you are done. Refused "
        "with Held (who has it, and for how many seconds) where somebody else has it.",
        {
            "key": _KEY,
            "seconds": _SECONDS,
            "wait": {
                "type": "number",
                "minimum": 0,
                "maximum": LONGEST_WAIT,
                "description": "Seconds to wait in a first-come queue where it is held (default "
                f"0, at most {LONGEST_WAIT:g}).",
            },
            "op_id": _OP_ID,
        },
        ("key",),
        ("lease", "record"),
    ),
    Tool(
        "renew_lease",
        "Keep a lease for longer",
        "Keep a lease that you hold for `seconds` from now. Refused with Fenced where it was taken "
        "away: stop that work then.",
        {"lease_id": _LEASE_ID, "seconds": _SECONDS},
        ("lease_id",),
        ("lease", "record"),
        repeatable=True,
    ),
    Tool(
        "release_lease",
        "Give a lease up",
        "Let others write the key again.",
        {"lease_id": _LEASE_ID},
        ("lease_id",),
        ("lease",),
        repeatable=True,
    ),
)

TOOLS = {tool.name: tool for tool in (*_READERS, *_WRITERS)}

INSTRUCTIONS = """\
Shared state of many agents. Every write is guarded: it says which version it was computed from, \
and is refused if somebody else wrote in between, so that nobody's work is lost.

1. Call `about` once: it says who you are and how keys may be written.
2. `read` a key, decide, then `write` or `update_fields` with the `version` and `epoch` of that \
record, or `create` a key that does not exist. `append` to merged keys, `transition` the others \
that have a state machine.
3. A refusal (ok=false) has done nothing. Follow its `next_step`. After a Conflict decide again \
from the fresh `record` in it; do not send the old value again.
4. For work of minutes on one key, `take_lease` first and `release_lease` afterwards."""
