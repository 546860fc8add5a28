"""Keys and ids by their text: what several writers would build alike."""

from __future__ import annotations

import re

from interlock.audit.value import Value, Write

_SHARED = re.compile(
    r"(?i)^(topic|subject|date|today|day|month|week|year|model|model_name|model_id|llm|task|task_name|task_type|task_description|title|category|"
    r"query|question|theme|keyword|keywords|company|ticker|symbol|city|country|language|lang|prompt_name|stage|phase|domain|goal|objective|"
    r"strftime|isoformat|date_str|current_date|slug|topic_slug|safe_topic|product|research_topic|step_name|section|section_name|kind|report_type)$"
)
_OWN = re.compile(
    r"(?i)(?<![a-z])(id|uuid\d?|agent\w*|user\w*|session\w*|run|run_id|worker\w*|thread\w*|pid|getpid|host|token|tenant|account|chat|"
    r"conversation|hash|digest|md5|sha\w*|hexdigest|timestamp|time|request|job|owner|seed|index|idx|i|n|count|version)(?![a-z])|_id\b|%H|%M|%S|@\d+\)?$"
)
_RESULTS = re.compile(
    r"(?i)result|report|answer|summary|summaries|finding|research|analys|output|draft|plan|notes|response|content|conclusion|article|review"
)
_CACHE = re.compile(
    r"(?i)cache|memo|template|config|lock|rate|counter|metric|lang_|locale|asset|static"
)


def shared_key(write: Write, text: str) -> list[str]:
    """Return the shared properties that a key is built of, if it is built of nothing else."""
    if _CACHE.search(text):
        return []
    inside = re.findall(r"\{([^{}]*)\}", text) if "f'" in text or 'f"' in text else []
    inside += re.findall(r"\+ (\w[\w.]*)", text)
    if not inside:
        return []
    names = []
    for each in inside:
        words = re.findall(r"[A-Za-z_]\w*", each)
        known = [word for word in words if _SHARED.match(word)]
        if not known or _OWN.search(each):
            return []
        names.append(known[-1])
    if _OWN.search(re.sub(r"\{[^{}]*\}", "", text)):
        return []
    return names


def is_result(write: Write) -> bool:
    """Say whether what is written is what an agent worked out."""
    return "model" in write.marks or bool(_RESULTS.search(f"{write.value} {write.spot.key}"))


def fixed_ids(ids: Value) -> str:
    """Return why ids are the same in every run, or nothing."""
    elements = [value for _, value in ids.parts] if ids.parts else [ids]
    if not elements:
        return ""
    if all(each.const is not None and "{" not in each.const for each in elements):
        return f"the constant {elements[0].text}"
    if all(re.fullmatch(r"-?\d+", each.text) for each in elements):
        return f"the constant {elements[0].text}"
    if all("index" in each.marks and not each.marks & {"unique"} for each in elements):
        return "the position in the batch"
    return ""


VECTOR_WRITES = {
    *("upsert", "add", "add_texts", "add_documents", "aadd_documents", "aadd_texts"),
    *("upsert_points", "upload_points"),
}
_BESIDE = {
    "documents",
    "embeddings",
    "metadatas",
    "vectors",
    "points",
    "texts",
    "collection_name",
    "namespace",
}


def vector_ids(
    name: str, receiver: str, positional: list[Value], named: dict[str, Value]
) -> Value | None:
    """Return the ids that a call gives to vectors, or None if it writes none or lets them be made."""
    words = ("vector", "index", "collection", "chroma", "qdrant", "pinecone")
    if not _BESIDE & set(named) and not any(each in receiver for each in words):
        return None
    if "ids" in named:
        return named["ids"]
    rows = next((named[each] for each in ("vectors", "points", "records") if each in named), None)
    if rows is None and positional and name == "upsert":
        rows = positional[0]
    if rows is None:
        return None
    known = [each for each in (_row_id(value) for _, value in rows.parts) if each is not None]
    if not known or len(known) < len(rows.parts):
        return None
    return Value("ids", parts=tuple((str(at), each) for at, each in enumerate(known)))


def _row_id(row: Value) -> Value | None:
    """Return the id of a vector that was written out: a tuple, a dict, a PointStruct."""
    found = row.part("id")
    return found if found is not None else row.part("0")
