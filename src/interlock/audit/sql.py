"""What a statement of SQL reads, writes and compares, by its text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_START = re.compile(
    r"\s*(?:--[^\n]*\n\s*)*(SELECT|INSERT|UPDATE|DELETE|WITH|BEGIN|REPLACE|LOCK|SET|START|MERGE|UPSERT)\b",
    re.I,
)
_NAME = r"[\"`\[]?((?:[\w{}]+[\"`\]]?\.[\"`\[]?)?[\w{}$]+)[\"`\]]?"
_FROM = re.compile(rf"\bFROM\s+{_NAME}", re.I)
_UPDATE = re.compile(rf"\bUPDATE\s+(?:OR\s+\w+\s+)?(?:ONLY\s+)?{_NAME}.*?\bSET\b", re.I | re.S)
_INSERT = re.compile(
    rf"\b(?:INSERT(?:\s+OR\s+(\w+))?\s+INTO|(REPLACE)\s+INTO)\s+{_NAME}\s*(?:\(([^)]*)\))?", re.I
)
_DELETE = re.compile(rf"\bDELETE\s+FROM\s+{_NAME}", re.I)
_PLACEHOLDER = r"(\?|%s|%\((\w+)\)s|:(\w+)|\$(\d+)|@(\w+)|\{\})"
_WHERE = re.compile(
    r"\bWHERE\b(.*?)(?:\bORDER\s+BY\b|\bGROUP\s+BY\b|\bLIMIT\b|\bRETURNING\b|\bFOR\s+UPDATE\b|\bON\s+CONFLICT\b|$)",
    re.I | re.S,
)
_COMPARED = re.compile(
    rf"[\"`]?([\w.]+)[\"`]?\s*(?:=|==|IS|<=>)\s*(?:{_PLACEHOLDER}|[\w'\"]+)", re.I
)
_ASSIGNED = re.compile(rf"[\"`]?(\w+)[\"`]?\s*=\s*(?:\w+\(\s*)?{_PLACEHOLDER}", re.I)
_ANY = re.compile(_PLACEHOLDER)
_LOCKS = re.compile(r"\bFOR\s+(NO\s+KEY\s+)?UPDATE\b|\bWITH\s*\(\s*UPDLOCK|\bFOR\s+SHARE\b", re.I)
_EXCLUSIVE = re.compile(
    r"\bBEGIN\s+(IMMEDIATE|EXCLUSIVE)|SERIALIZABLE|\bLOCK\s+TABLE|pg_advisory(_xact)?_lock|pg_try_advisory|GET_LOCK\(",
    re.I,
)
VERSIONS = re.compile(
    r"(?i)^(.*_)?(version|ver|rev|revision|etag|updated_at|modified_at|last_modified|lock_version|row_version|epoch|xmin|seq|"
    r"version_id|last_updated|checksum|hash|digest|token|fence|fencing_token|generation)$"
)


@dataclass(frozen=True)
class Bound:
    """A column and the position or name of the parameter that it is compared with or set to."""

    column: str
    parameter: str  # a position from 0, a name, or nothing


@dataclass(frozen=True)
class Statement:
    """One statement."""

    verb: str  # select, update, insert, delete, lock
    table: str
    columns: tuple[str, ...] = ()  # selected, or set
    sets: tuple[Bound, ...] = ()
    where: tuple[Bound, ...] = ()
    locks: bool = False
    counts: bool = False  # only says whether, or how many
    merges: bool = False  # ON CONFLICT, INSERT OR IGNORE
    replaces: bool = False  # ON CONFLICT DO UPDATE, INSERT OR REPLACE
    exists: bool = False  # has a condition of its own: WHERE NOT EXISTS


def is_sql(text: str) -> bool:
    """Say whether a text looks like a statement."""
    return _START.match(text) is not None


def parse(text: str) -> Statement | None:
    """Return what a statement does, or None."""
    if not is_sql(text):
        return None
    if _EXCLUSIVE.search(text):
        return Statement("lock", "")
    text = re.sub(r"--[^\n]*", "", text)
    numbered = _numbered(text)
    bounds = _where(text, numbered)
    columns = tuple(each.column for each in bounds)
    if update := _UPDATE.search(text):
        body = text[update.end() :]
        where = _WHERE.search(body)
        assigned = body[: where.start()] if where else body
        sets = _bounds(_ASSIGNED, assigned, update.end(), numbered)
        names = tuple(re.findall(r"[\"`]?(\w+)[\"`]?\s*=(?!=)", assigned))
        upserts = _INSERT.search(text)
        if not upserts:
            return Statement(
                "update", _clean(update[1]), names, sets, bounds, exists="select" in body.lower()
            )
    if insert := _INSERT.search(text):
        names = tuple(re.findall(r"\w+", insert[4] or ""))
        conflict = re.search(r"\bON\s+(CONFLICT|DUPLICATE)\b(.*)", text, re.I | re.S)
        nothing = bool(conflict and re.search(r"\bNOTHING\b", conflict[2], re.I))
        how = (insert[1] or insert[2] or "").upper()
        replaces = how == "REPLACE" or bool(conflict and not nothing)
        compared = bool(conflict and re.search(r"\bWHERE\b", conflict[2], re.I))
        grows = bool(conflict and re.search(r"=\s*[\w.]+\s*(\+|\|\|)", conflict[2]))
        sets = tuple(Bound(name, _parameter(at, numbered)) for at, name in enumerate(names))
        return Statement(
            "insert",
            _clean(insert[3]),
            names,
            sets,
            (),
            merges=bool(conflict) or bool(how),
            replaces=replaces and not compared and not grows,
            exists="not exists" in text.lower(),
        )
    if delete := _DELETE.search(text):
        return Statement("delete", _clean(delete[1]), (), (), bounds)
    source = _FROM.search(text)
    if not re.match(r"\s*(SELECT|WITH)\b", text, re.I) or source is None:
        return None
    selected = re.search(r"\bSELECT\s+(?:DISTINCT\s+)?(.*?)\bFROM\b", text, re.I | re.S)
    listed = selected[1] if selected else "*"
    counts = bool(re.match(r"\s*(COUNT\s*\(|1\b|EXISTS|TRUE\b)", listed, re.I)) or bool(
        re.match(r"\s*SELECT\s+EXISTS", text, re.I)
    )
    names = tuple(
        each.strip()
        if "(" in each
        else re.sub(r".*\.|.*\bAS\s+", "", each.strip().strip('"`'), flags=re.I | re.S)
        for each in listed.split(",")
    )
    return Statement(
        "select",
        _clean(source[1]),
        names,
        (),
        bounds,
        bool(_LOCKS.search(text)),
        counts,
        exists=len(columns) > 0,
    )


def _clean(name: str) -> str:
    return re.sub(r"[\"`\[\]]", "", name).split(".")[-1].lower() or "{}"


def _numbered(text: str) -> dict[int, str]:
    """Return the parameter at each placeholder's position in the text."""
    found: dict[int, str] = {}
    for at, match in enumerate(_ANY.finditer(text)):
        named = match[2] or match[3] or match[5]
        found[match.start()] = named or (str(int(match[4]) - 1) if match[4] else str(at))
    return found


def _parameter(at: int, numbered: dict[int, str]) -> str:
    values = list(numbered.values())
    return values[at] if at < len(values) else ""


def _where(text: str, numbered: dict[int, str]) -> tuple[Bound, ...]:
    match = _WHERE.search(text)
    return _bounds(_COMPARED, match[1], match.start(1), numbered) if match else ()


def _bounds(
    pattern: re.Pattern[str], text: str, start: int, numbered: dict[int, str]
) -> tuple[Bound, ...]:
    return tuple(
        Bound(
            match[1].split(".")[-1].lower(),
            numbered.get(start + match.start(2), "") if match[2] else "",
        )
        for match in pattern.finditer(text)
    )
