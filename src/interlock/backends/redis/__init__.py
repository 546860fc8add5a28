"""The Redis dialect."""

from interlock.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
