"""The search through all schedules: breadth-first over states, each visited once.

A state is the store's content and clock, every agent's local state, and the faults left.  It is
exact: two schedules that lead to equal states go on alike, so they are explored once and counted
both.  Breadth-first, the first broken invariant is met at the end of a shortest schedule.

Time stands still while anybody can move, except for stalls.  An agent that waits (`Pause`) sleeps
until the store has changed; where everybody who lives sleeps, the clock moves on and wakes them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from interlock import Space
from interlock.core.turn import TICKET_TTL
from interlock.errors import Invalid
from interlock.verify.explorer import story
from interlock.verify.explorer.agents import NOBODY, Agents, EndlessWait
from interlock.verify.explorer.invariants import (
    ALWAYS,
    OF_STORE,
    Invariant,
    View,
    broken,
    name_of,
)
from interlock.verify.explorer.store import Stores
from interlock.verify.explorer.story import Violation

_PACKAGE = str(Path(__file__).parents[2])
_CLOCK_STEP_US = int(TICKET_TTL * 1e6 / 3)  # soon enough for whoever waits to renew its ticket
_STALL_US = int(TICKET_TTL * 1e6) + 1  # long enough for every ticket to expire
_TIME = -1  # who moves where time does


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was explored: every invariant held in every state of every schedule.

    `schedules`: ways from the start to an end.  `states`: different states on them.  `moves`:
    different moves between them.  `longest`: moves of the longest schedule.
    """

    schedules: int
    states: int
    moves: int
    longest: int
    invariants: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.schedules:,} schedules of at most {self.longest} moves, {self.states:,} "
            f"states: {len(self.invariants)} invariants hold"
        )


class Faults(NamedTuple):
    """How many faults may still happen."""

    crashes: int
    lost_replies: int
    stalls: int
    power_failures: int = 0


class State(NamedTuple):
    """A state: numbers of the store's content and of the agents' local states, and the rest.

    `clock_us`: the store's time since the start.  `idle_us`: how much of it has passed since
    anybody did more than ask for its place again.  `disk`: the content that would be left if the
    power failed (where it may).
    """

    store: int
    clock_us: int
    idle_us: int
    faults: Faults
    agents: tuple[int, ...]
    disk: int = NOBODY


class Move(NamedTuple):
    """A move to a state: what kind, and the index of the agent that made it."""

    kind: str
    agent: int
    state: State


class Search:
    """One exploration.  Set the invariants, then run it once."""

    def __init__(self, agents: Agents, stores: Stores, *, max_states: int, horizon_us: int) -> None:
        self.always: tuple[Invariant, ...] = ()
        self.invariants: tuple[Invariant, ...] = ()
        self.final: tuple[Invariant, ...] = ()
        self._agents = agents
        self._stores = stores
        self._max_states = max_states
        self._horizon_us = horizon_us
        self._numbers: dict[State, int] = {}
        self._states: list[State] = []
        self._came: list[tuple[int, str, int]] = []  # from which state, by which move of whom
        self._next: list[list[int]] = []
        self._held: set[tuple[bool, int, tuple[int, ...]]] = set()
        self._sound: set[int] = set()  # the stores of which `OF_STORE` hold

    def run(self, faults: Faults) -> Exploration:
        """Explore everything.  Raises Violation, Invalid, NotDeterministic."""
        locals_ = tuple(self._agents.start(i) for i in range(len(self._agents.names)))
        store = self._stores.current()
        start = State(store, 0, 0, faults, locals_, store if faults.power_failures else NOBODY)
        self._reach(NOBODY, Move(story.RUN, _TIME, start))
        for number, state in enumerate(self._states):  # grows meanwhile
            try:
                following = [self._reach(number, move) for move in self._moves(number, state)]
            except EndlessWait:  # the time of the store has passed, but its ticket was kept alive
                self._break_deadlock(number)
            self._next.append(following)
        schedules, longest = self._count()
        names = tuple(map(name_of, (*self.always, *self.invariants, *self.final)))
        moves = sum(map(len, self._next))
        return Exploration(schedules, len(self._states), moves, longest, names)

    # Moves

    def _moves(self, number: int, state: State) -> Iterator[Move]:
        awake = asleep = False
        for index, local_number in enumerate(state.agents):
            local = self._agents.states[local_number]
            if local.asleep:
                asleep = True
            elif local.request != NOBODY:
                awake = True
                yield from self._moves_of(number, state, index)
        if awake and state.faults.stalls and self._stores.has_queue(state.store):
            faults = state.faults._replace(stalls=state.faults.stalls - 1)
            yield Move(story.STALL, _TIME, self._later(state, _STALL_US, 0, faults))
        if state.faults.power_failures and state.disk != state.store:
            yield Move(story.POWER, _TIME, self._failed(state))
        if asleep and not awake:
            idle_us = state.idle_us + _CLOCK_STEP_US
            later = self._later(state, _CLOCK_STEP_US, idle_us, state.faults)
            yield Move(story.CLOCK, _TIME, later)

    def _moves_of(self, number: int, state: State, index: int) -> Iterator[Move]:
        """Yield what may happen to an agent's next request.

        A crash after the request, and a lost reply, are moves only where the request changed the
        store: otherwise they are the crash before it, and nothing at all.
        """
        store, _, idle_us, faults, agents, disk = state
        local = agents[index]
        request = self._agents.states[local].request
        answer, changed, synced = self._stores.perform(store, state.clock_us, request)
        if changed != store and answer in self._stores.answers.refusals:
            self._break(number, "a refusal changes nothing", "the store has changed", running=index)
        after = self._agents.go_on(local, answer)
        others = agents if changed == store else self._woken(agents)
        if not (self._agents.states[after].asleep and self._agents.wake(after) == local):
            idle_us = 0
        reached = changed if synced and disk != NOBODY else disk
        then = state._replace(store=changed, agents=_with(others, index, after), disk=reached)
        yield Move(story.RUN, index, then._replace(idle_us=idle_us))
        state = state._replace(idle_us=0)
        if faults.crashes:
            dead, left = self._agents.crash(local), faults._replace(crashes=faults.crashes - 1)
            then = state._replace(faults=left, agents=_with(agents, index, dead))
            yield Move(story.CRASH, index, then)
            if changed != store:
                then = then._replace(store=changed, agents=_with(others, index, dead))
                yield Move(story.CRASH_AFTER, index, then)
        if faults.lost_replies and changed != store:
            left = faults._replace(lost_replies=faults.lost_replies - 1)
            agents = _with(others, index, local)
            then = state._replace(store=changed, faults=left, agents=agents)
            yield Move(story.LOST_REPLY, index, then)

    def _failed(self, state: State) -> State:
        """Return the state after the power failed: the store holds what is on the disk, and nobody
        lives who could notice."""
        faults = state.faults._replace(power_failures=state.faults.power_failures - 1)
        states, crash = self._agents.states, self._agents.crash
        agents = tuple(
            local if states[local].request == NOBODY else crash(local) for local in state.agents
        )
        return state._replace(store=state.disk, idle_us=0, faults=faults, agents=agents)

    def _later(self, state: State, passed_us: int, idle_us: int, faults: Faults) -> State:
        clock_us, agents = state.clock_us + passed_us, self._woken(state.agents)
        return state._replace(clock_us=clock_us, idle_us=idle_us, faults=faults, agents=agents)

    def _woken(self, agents: tuple[int, ...]) -> tuple[int, ...]:
        states, wake = self._agents.states, self._agents.wake
        return tuple(wake(local) if states[local].asleep else local for local in agents)

    # States and what must hold in them

    def _reach(self, before: int, move: Move) -> int:
        """Return the number of the state that a move leads to; check it where it is new."""
        number = self._numbers.get(move.state)
        if number is None:
            number = self._numbers[move.state] = len(self._states)
            if number >= self._max_states:
                raise Invalid(
                    f"there are more than {self._max_states:,} states; explore fewer agents, "
                    "requests or faults, limit attempts=, or raise max_states="
                )
            self._states.append(move.state)
            self._came.append((before, move.kind, move.agent))
            self._check(number, move.state)
        return number

    def _check(self, number: int, state: State) -> None:
        ended = True
        for index, local_number in enumerate(state.agents):
            local = self._agents.states[local_number]
            ended = ended and local.request == NOBODY
            if local.failed is not None:
                self._break_failed(number, self._agents.names[index], local.failed)
        seen = tuple(self._agents.states[local].seen for local in state.agents)
        key = (ended, state.store, seen)
        if key not in self._held:
            view = self._view(state)
            self._held.add(key)
            for invariant in (*self.always, *self.invariants, *(self.final if ended else ())):
                if invariant in OF_STORE and state.store in self._sound:
                    continue
                reason = broken(invariant, view)
                if reason is not None:
                    self._break(number, name_of(invariant), reason)
            self._sound.add(state.store)
        if state.idle_us > self._horizon_us:
            self._break_deadlock(number)

    def _view(self, state: State) -> View:
        names = self._agents.names
        seen = [self._agents.seen[self._agents.states[local].seen] for local in state.agents]

        return View(
            lambda: self._stores.reader(state.store),
            lambda: self._stores.log(state.store),
            {name: known.acknowledged for name, known in zip(names, seen, strict=True)},
            {name: known.result for name, known in zip(names, seen, strict=True) if known.ended},
            frozenset(name for name, known in zip(names, seen, strict=True) if known.crashed),
        )

    # Counting

    def _count(self) -> tuple[int, int]:
        """Return the number of schedules and the moves of the longest, by dynamic programming."""
        arrivals = [0] * len(self._states)
        for following in self._next:
            for number in following:
                arrivals[number] += 1
        order = [0]
        for number in order:  # grows meanwhile
            for after in self._next[number]:
                arrivals[after] -= 1
                if not arrivals[after]:
                    order.append(after)
        if len(order) < len(self._states):
            circle = next(number for number, left in enumerate(arrivals) if left)
            self._break(circle, "livelock", "from here the agents can return to this very state")
        schedules, longest = [1] * len(self._states), [0] * len(self._states)
        for number in reversed(order):
            following = self._next[number]
            if following:
                schedules[number] = sum(schedules[after] for after in following)
                longest[number] = 1 + max(longest[after] for after in following)
        return schedules[0], longest[0]

    # Telling

    def _break(
        self,
        number: int,
        name: str,
        reason: str,
        *,
        running: int = NOBODY,
        cause: BaseException | None = None,
    ) -> NoReturn:
        """Raise the violation met in a state, or in an agent's (`running`) next request there."""
        schedule = self._schedule(number)
        if running != NOBODY:
            schedule.append(self._step(self._states[number], story.RUN, running))
        ending = self._ending(self._states[number])
        raise story.Violation(name, reason, tuple(schedule), tuple(ending)) from cause

    def _break_failed(self, number: int, agent: str, problem: BaseException) -> NoReturn:
        frames = traceback.extract_tb(problem.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
        place = (own or frames)[-1]
        reason = f"{problem} (line {place.lineno} of {place.filename}: {place.line})".lstrip()
        self._break(number, f"{agent} raised {type(problem).__name__}", reason, cause=problem)

    def _break_deadlock(self, number: int) -> NoReturn:
        while self._states[number].idle_us:  # leave the fruitless questions out of the story
            number = self._came[number][0]
        state = self._states[number]
        waiting = " and ".join(
            name
            for name, local in zip(self._agents.names, state.agents, strict=True)
            if self._agents.states[local].request != NOBODY
        )
        seconds = self._horizon_us / 1e6
        reason = f"{waiting} would wait forever (no news in {seconds:.0f} s of the store's clock)"
        self._break(number, "deadlock", reason)

    def _schedule(self, number: int) -> list[story.Step]:
        steps = []
        while self._came[number][0] != NOBODY:
            number, kind, index = self._came[number]
            steps.append(self._step(self._states[number], kind, index))
        return steps[::-1]

    def _step(self, state: State, kind: str, index: int) -> story.Step:
        if kind == story.POWER:
            return story.Step(None, kind, story.POWER_FAILS)
        if index == _TIME:
            seconds = (_STALL_US if kind == story.STALL else _CLOCK_STEP_US) / 1e6
            why = "The agents stall" if kind == story.STALL else "Everybody waits"
            return story.Step(None, kind, f"{why} while {seconds:.0f} s pass by the store's clock.")
        name = self._agents.names[index]
        request = self._agents.states[state.agents[index]].request
        answer, _, _ = self._stores.perform(state.store, state.clock_us, request)
        words = story.sentence(
            name, kind, self._stores.requests[request], self._stores.answers[answer]
        )
        return story.Step(name, kind, words)

    def _ending(self, state: State) -> list[str]:
        ending = [story.holding(self._stores.reader(state.store).scan())]
        for name, number in zip(self._agents.names, state.agents, strict=True):
            local = self._agents.states[number]
            ending.append(story.standing(name, self._agents.seen[local.seen], local.asleep))
        return ending


def _with(agents: tuple[int, ...], index: int, local: int) -> tuple[int, ...]:
    return (*agents[:index], local, *agents[index + 1 :])


def explore(
    agents: Mapping[str, object],
    *,
    setup: Callable[[Space], object] | None = None,
    invariants: Invariant | Iterable[Invariant] = (),
    final: Invariant | Iterable[Invariant] = (),
    crashes: int = 1,
    lost_replies: int = 1,
    stalls: int = 0,
    power_failures: int = 0,
    always: Iterable[Invariant] = ALWAYS,
    max_states: int = 500_000,
    horizon: float = 60.0,
) -> Exploration:
    """Run every schedule of the agents' requests, and check invariants in every state.

    `agents` maps a name to a plain function that takes a `Space`, to a generator function that
    takes a `Writer`, or to what `protocol_agent` returns.  They run many times, so they must
    depend on nothing but what the space answers.  `setup(space)` runs once, before.

    `invariants` are checked in every state, `final` where everybody has ended or crashed; each is a
    function of a `View`.  `always` are the built-in ones (`always=()` turns them off).  At most
    `crashes` agents die, before a request or before its answer arrives; `lost_replies` answers are
    lost, so that the driver sends the same request again; `stalls` times the agents stand still for
    longer than a place in a queue lasts.  In a power failure everybody dies, and the store is cut
    to what had reached its disk: a commit whose answer was lost, or whose agent died before it had
    one, has not.  `horizon`: seconds of the store's clock after which agents that only wait are
    deadlocked.

    Raises Violation with a shortest schedule that breaks an invariant, deadlocks, or makes an agent
    raise anything but a `Refused`; NotDeterministic; Invalid for wrong arguments or where there are
    more than `max_states` states.
    """
    __tracebackhide__ = True
    if not isinstance(agents, Mapping) or not agents:
        raise Invalid("agents= maps at least one name to a function that takes a Space")
    faults = Faults(crashes, lost_replies, stalls, power_failures)
    for name, limit in faults._asdict().items():
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise Invalid(f"{name}={limit!r} is not a number of faults from 0")
    stores = Stores()
    try:
        if setup is not None:
            stores.set_up(setup)
        search = Search(
            Agents(agents, stores), stores, max_states=max_states, horizon_us=int(horizon * 1e6)
        )
        search.always = tuple(always)
        search.invariants = _several(invariants)
        search.final = _several(final)
        return search.run(faults)
    except Violation as violation:
        raise violation.with_traceback(None)  # noqa: B904  # the story says where; not these frames
    finally:
        stores.close()


def _several(invariants: Invariant | Iterable[Invariant]) -> tuple[Invariant, ...]:
    return (invariants,) if callable(invariants) else tuple(invariants)
