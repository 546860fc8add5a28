"""AutoGen: state of teams, memory and caches that several teams, processes and hosts may share.

The state of a conversation is the key `autogen/state/<name>`, whose lease a team has while it runs.
Each entry of a memory is a key `autogen/memory/<name>/<random>`, each one of a cache a key
`autogen/cache/<name>/<key>`.  Names are quoted, and hashed if they are long.
"""

from __future__ import annotations

from interlock.adapters.autogen.teams import team_state
from interlock.extras import needs

with needs("AutoGen", "autogen"):
    from interlock.adapters.autogen.cache import SharedCacheStore
    from interlock.adapters.autogen.memory import SharedMemory

__all__ = ["SharedCacheStore", "SharedMemory", "team_state"]
