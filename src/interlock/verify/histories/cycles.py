"""Cycles of a directed graph whose nodes are numbers: where they are, and short ones.  Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import count

Following = Sequence[Sequence[int]]


def components(following: Following) -> list[list[int]]:
    """Return the strongly connected components of more than one node, by Tarjan's algorithm.

    `following` holds the nodes that follow each node.  Source: Tarjan, "Depth-First Search and
    Linear Graph Algorithms" (1972), here without recursion.
    """
    unseen, closed = 0, len(following) + 1
    found: list[list[int]] = []
    # The order in which a node was met, then the least such number that it leads back to.
    low = [unseen] * len(following)
    numbers = count(1)
    for root in range(len(following)):
        if low[root]:
            continue
        low[root] = number = next(numbers)
        waiting = [root]
        walk = [(root, number, iter(following[root]))]
        while walk:
            node, met, rest = walk[-1]
            for other in rest:
                if low[other] == unseen:
                    low[other] = number = next(numbers)
                    waiting.append(other)
                    walk.append((other, number, iter(following[other])))
                    break
                if low[other] < low[node]:
                    low[node] = low[other]
            else:
                walk.pop()
                if walk and low[node] < low[walk[-1][0]]:
                    low[walk[-1][0]] = low[node]
                if low[node] == met:
                    at = len(waiting) - 1
                    while waiting[at] != node:
                        at -= 1
                    component = waiting[at:]
                    del waiting[at:]
                    for each in component:
                        low[each] = closed
                    if len(component) > 1:
                        found.append(component)
    return found


def shortest_cycle(following: Following, start: int, within: set[int], free: int) -> list[int]:
    """Return a shortest cycle through `start` that stays `within` a set, empty if there is none.

    Nodes from `free` on cost nothing and are left out of the cycle that is returned.
    """
    came: dict[int, int] = {}
    cost = {start: 0}
    todo = deque([start])
    settled = set[int]()
    while todo:
        node = todo.popleft()
        if node in settled:
            continue
        settled.add(node)
        for other in following[node]:
            if other not in within:
                continue
            if other == start:
                path = [node]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return [each for each in reversed(path) if each < free]
            further = cost[node] + (other < free)
            if further < cost.get(other, further + 1):
                cost[other] = further
                came[other] = node
                if other < free:
                    todo.append(other)
                else:
                    todo.appendleft(other)
    return []


def in_order(following: Following, priority: Sequence[float]) -> list[int]:
    """Return the nodes of a graph without cycles in an order of it, those of low priority first."""
    waits = [0] * len(following)
    for others in following:
        for other in others:
            waits[other] += 1
    ready = [(priority[node], node) for node, number in enumerate(waits) if not number]
    heapify(ready)
    order = []
    while ready:
        _, node = heappop(ready)
        order.append(node)
        for other in following[node]:
            waits[other] -= 1
            if not waits[other]:
                heappush(ready, (priority[other], other))
    return order
