"""CrewAI: guarded persistence of flows, and a memory that agents on many hosts share.

`Persistence(url)` goes where CrewAI takes a `FlowPersistence`, `SharedMemory(url)` where it takes a
`Memory`, and `MemoryStorage(url)` where it takes a `StorageBackend`.  Keys: `crewai/flow/<id>` is
what is saved of a flow, `crewai/memory/record/<id>` a memory, `crewai/memory/dimensions` the length
of the vectors.  Ids are quoted, and hashed if they are long.
"""

from __future__ import annotations

from interlock.adapters.crewai.flow import typed_errors, update, update_async
from interlock.adapters.crewai.memory import MemoryStorage, SharedMemory
from interlock.adapters.crewai.persistence import FlowRun, Persistence

__all__ = [
    "FlowRun",
    "MemoryStorage",
    "Persistence",
    "SharedMemory",
    "typed_errors",
    "update",
    "update_async",
]
