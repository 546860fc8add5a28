"""Many threads write to a store at once: what it said that it had written must be there.

The store may be of any kind: a class of one's own, a framework's memory, a client of a server.
"""

from __future__ import annotations

import inspect
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from interlock.core.refusals import described
from interlock.errors import Invalid

Store = TypeVar("Store")

_LONGEST_THOUGHT = 0.002  # seconds


class WritersReport(NamedTuple):
    """What became of the writes.  `acknowledged` counts those that did not raise.

    `lost` and `repeated` name the acknowledged items that the store does not hold, or holds more
    than once; `errors` counts the writes that raised, by what they raised, which nobody calls lost.
    """

    acknowledged: int
    lost: tuple[str, ...]
    repeated: tuple[str, ...]
    errors: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether every acknowledged item is there, once, and there is at least one."""
        return self.acknowledged > 0 and not self.lost and not self.repeated

    def check(self) -> None:
        """Raise AssertionError, which names the first items, unless `ok`."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        said = f"{len(self.lost)} of {self.acknowledged} acknowledged writes are lost"
        for what, items in (("lost", self.lost), ("repeated", self.repeated)):
            said += f"; {what}: {', '.join(items[:5])}" if items else ""
        failed = sum(self.errors.values())
        return said + (f"; {failed} failed: {next(iter(self.errors))}" if failed else "") + "."


def check_append(
    make_store: Callable[[], Store],
    writers: int = 10,
    *,
    each: int = 10,
    append: Callable[[Store, str], object] = lambda store, item: _any(store).append(item),
    read: Callable[[Store], Iterable[object]] = lambda store: _any(store).read(),
) -> WritersReport:
    """Let `writers` threads append `each` items of their own to one store, all at once.

    `make_store()` returns an empty store, which the threads share.  `append` and `read` say how to
    write to it and how to read all its items, if it has no methods `append(item)` and `read()`.
    `check_append(Store).check()` is a test.  Raises Invalid.
    """
    return _meet(make_store, writers, each, 0, lambda store, item, think: append(store, item), read)


def check_update(
    make_store: Callable[[], Store],
    writers: int = 10,
    *,
    each: int = 10,
    update: Callable[[Store, Callable[[Any], list[str]]], object] = (
        lambda store, fn: _any(store).update(fn)
    ),
    read: Callable[[Store], Iterable[object]] = lambda store: _any(store).read(),
    seed: int = 0,
) -> WritersReport:
    """Let `writers` threads change one value at once: each adds `each` items to a list, one by one.

    `update(store, fn)` is to replace the value by `fn(value)`; `fn` thinks for up to two
    milliseconds, as `seed` says, and may be called again.  It takes None for an empty list.  A
    store that only has `get` and `set` is tested by
    `update=lambda store, fn: store.set("k", fn(store.get("k")))`.  The rest is as in
    `check_append`.  Raises Invalid.
    """

    def add(store: Store, item: str, think: Callable[[], None]) -> object:
        def changed(value: Any) -> list[str]:
            think()
            return [*(value or []), item]

        return update(store, changed)

    return _meet(make_store, writers, each, seed, add, read)


def _meet(
    make_store: Callable[[], Store],
    writers: int,
    each: int,
    seed: int,
    write: Callable[[Store, str, Callable[[], None]], object],
    read: Callable[[Store], Iterable[object]],
) -> WritersReport:
    if min(writers, each) < 1:
        raise Invalid(f"writers ({writers}) and each ({each}) must be 1 or more.")
    store = make_store()
    start = threading.Barrier(writers)
    acknowledged: list[str] = []
    errors: Counter[str] = Counter()
    lock = threading.Lock()

    def work(number: int) -> None:
        chance = random.Random(f"{seed}/{number}")
        start.wait()
        for count in range(each):
            item = f"writer-{number}/{count}"
            try:
                answer = write(store, item, lambda: time.sleep(chance.uniform(0, _LONGEST_THOUGHT)))
                if inspect.iscoroutine(answer):
                    answer.close()
                    raise Invalid("A coroutine was returned: call asyncio.run() around it.")
            except Exception as problem:
                with lock:
                    errors[described(problem)] += 1
            else:
                with lock:
                    acknowledged.append(item)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Counter(str(item) for item in read(store) or ())
    return WritersReport(
        len(acknowledged),
        tuple(item for item in acknowledged if not found[item]),
        tuple(item for item in acknowledged if found[item] > 1),
        dict(errors),
    )


def _any(store: Any) -> Any:
    return store
