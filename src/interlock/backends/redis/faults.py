"""Turns what redis-py raises into the library's faults, by the words of Redis's own errors."""

from __future__ import annotations

import re

from interlock.backends.answers import lost_commits
from interlock.backends.contract import dropped
from interlock.errors import AnswerLost, Corrupt, IncompatibleStore, InterlockError, Unavailable
from interlock.extras import needs

with needs("redis-py", "redis"):
    import redis
    import redis.asyncio
    import redis.exceptions

__all__ = ["fault_of", "is_redirect", "must_wait", "redis", "script_is_missing", "told_by"]

_WAIT = ("LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "FAILOVER")
_MOVING = "TTL exhausted"  # redis-py, after many redirections: nearly always of a slot that moves
_MISSING = re.compile(r"MISSING: (.*) :MISSING", re.DOTALL)  # what the scripts find; common.lua
_LOST = re.compile(r"LOST: (\d+) :LOST")  # the space is another one, and this one was not dropped
_REDIRECT = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
_REFUSED = {
    "OOM": "is out of memory: raise maxmemory",
    "MISCONF": "can't save to its disk",
    "NOREPLICAS": "has too few replicas (min-replicas-to-write)",
    "NOAUTH": "needs a password: put it into the URL (redis://:password@host)",
    "WRONGPASS": "refused the user or password",
    "NOPERM": "does not let this user do that",
}


def told_by(problem: Exception) -> str:
    """Return what the server said, with the word that redis-py takes off its known errors."""
    words = {
        "BusyLoadingError": "LOADING ",
        "ReadOnlyError": "READONLY ",
        "NoScriptError": "NOSCRIPT ",
        "OutOfMemoryError": "OOM ",
        "NoPermissionError": "NOPERM ",
        "AuthenticationError": "NOAUTH ",
        "AuthenticationWrongNumberOfArgsError": "NOAUTH ",
        "TryAgainError": "TRYAGAIN ",
        "ClusterDownError": "CLUSTERDOWN ",
        "MasterDownError": "MASTERDOWN ",
        "MovedError": "MOVED ",
        "AskError": "ASK ",
    }
    told = str(problem)
    word = words.get(type(problem).__name__, "")
    if word == "NOAUTH " and told.startswith("invalid"):
        word = "WRONGPASS "  # redis-py has one class for both
    return told if told.startswith(word) else word + told


def must_wait(problem: Exception) -> bool:
    """Whether the server did nothing and may do it soon.

    A script's error names its cause within.
    """
    told = told_by(problem)
    inner = told.startswith("ERR Error running script") or "script: " in told
    return told.startswith((*_WAIT, _MOVING)) or (
        inner and any(f"-{word}" in told for word in _WAIT)
    )


def is_redirect(problem: Exception) -> bool:
    """Whether another node of the cluster has to be asked."""
    return told_by(problem).startswith(_REDIRECT)


def script_is_missing(problem: Exception) -> bool:
    """Whether the server has forgotten the script: it did nothing."""
    return told_by(problem).startswith("NOSCRIPT")


def fault_of(problem: Exception, place: str, sent: bool) -> InterlockError | AnswerLost:
    """Return the fault that `problem` is.  `sent`: the command may have reached the server."""
    told = told_by(problem).strip()
    for word, why in _REFUSED.items():
        if told.startswith(word) or f"-{word} " in told:
            return Unavailable(f"{place} {why}. Nothing was written. ({told})")
    if "DROPPED :DROPPED" in told:
        return dropped(place)
    if (found := _LOST.search(told)) is not None:
        return lost_commits(int(found[1]))
    if isinstance(problem, redis.exceptions.ResponseError) and not must_wait(problem):
        if "unknown command" in told.lower():
            return IncompatibleStore(f"{place} is not Redis 6.2 or newer, or Valkey: {told}")
        if (found := _MISSING.search(told)) is not None:
            return Corrupt(
                f"{place} lost a part of the space: {found[1]}. The server evicted it, or "
                "somebody deleted it. Restore a backup."
            )
        if told.startswith("WRONGTYPE") or "Error running script" in told or "script: " in told:
            return Corrupt(f"The keys of the space in {place} hold something else: {told}")
        return Unavailable(f"{place} refused the call: {told}")
    if told.startswith(_MOVING):
        return AnswerLost(f"its slot is being moved ({told})")
    if must_wait(problem) or not sent:
        what = f"Can't use {place} now" if must_wait(problem) else f"Can't reach {place}"
        return Unavailable(f"{what} ({told}). Nothing was written.")
    return AnswerLost(told or type(problem).__name__)
