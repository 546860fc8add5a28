"""How a space hands out circuit breakers: the methods that both façades take from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock.core.decide import Writer
from interlock.core.outcome import Refusal
from interlock.errors import Invalid, raise_refusal, raise_refused

if TYPE_CHECKING:
    from interlock.backends.drive import SyncDriver
    from interlock.backends.drive_async import AsyncDriver
    from interlock.runs.breakers import AsyncBreaker, Breaker
    from interlock.runs.breaking import BreakerInfo, Limits

REFRESH = 1.0  # seconds


class _Breakers:
    _writer: Writer
    _op_id: Callable[[str | None], str]

    def _limits(self, ignore: object, refresh: object, *arguments: Any) -> Limits:
        from interlock.core.leases import check_seconds
        from interlock.runs.breaking import limits

        found = limits(*arguments)
        if isinstance(found, Refusal):
            raise_refusal(found)
        raise_refused(check_seconds("refresh", refresh, 0, 60.0))
        if not isinstance(ignore, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, BaseException) for kind in ignore
        ):
            raise Invalid(f"ignore={ignore!r:.60} is not a tuple of classes of exceptions")
        return found


class Breakers(_Breakers):
    """Circuit breakers, with the synchronous façade."""

    _driver: SyncDriver
    _run: Callable[[Any], Any]

    def breaker(
        self,
        name: str,
        *,
        failures: int = 5,
        within: float = 60.0,
        timeout: float = 30.0,
        reset_after: float = 30.0,
        ignore: tuple[type[BaseException], ...] = (),
        refresh: float = REFRESH,
    ) -> Breaker:
        """Return a circuit breaker, which all who open the space share under `name`.  Keep it.

        It opens after `failures` failures `within` so many seconds: exceptions, but not those of
        `ignore`, and calls that take longer than `timeout` seconds.  `reset_after` seconds later
        one caller may probe.  `refresh`: seconds for which it goes by what it saw of the state.
        """
        from interlock.runs.breakers import Breaker

        found = self._limits(ignore, refresh, name, failures, within, timeout, reset_after)
        return Breaker(self._driver, self._writer, found, ignore, refresh, self._op_id)

    def breakers(self) -> list[BreakerInfo]:
        """Return the state of each of the space's breakers that ever counted a failure."""
        from interlock.runs.breaking import every

        return list(self._run(every(self._writer)))


class AsyncBreakers(_Breakers):
    """Circuit breakers, with the asyncio façade."""

    _driver: AsyncDriver
    _run: Callable[[Any], Any]

    def breaker(
        self,
        name: str,
        *,
        failures: int = 5,
        within: float = 60.0,
        timeout: float = 30.0,
        reset_after: float = 30.0,
        ignore: tuple[type[BaseException], ...] = (),
        refresh: float = REFRESH,
    ) -> AsyncBreaker:
        """Return a circuit breaker, which all who open the space share under `name`.  Keep it.

        The arguments are those of `interlock.Space.breaker`.
        """
        from interlock.runs.breakers import AsyncBreaker

        found = self._limits(ignore, refresh, name, failures, within, timeout, reset_after)
        return AsyncBreaker(self._driver, self._writer, found, ignore, refresh, self._op_id)

    async def breakers(self) -> list[BreakerInfo]:
        """Return the state of each of the space's breakers that ever counted a failure."""
        from interlock.runs.breaking import every

        return list(await self._run(every(self._writer)))
