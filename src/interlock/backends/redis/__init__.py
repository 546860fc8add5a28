"""The Redis dialect."""

from interlock.backends.redis.backend import RedisBackend
from interlock.backends.redis.options import RedisOptions

__all__ = ["RedisBackend", "RedisOptions"]
