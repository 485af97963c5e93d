"""Work that threads share, with results in order and memory for a few of them at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 16  # items a thread that are worked on before their turn: enough that none waits for a slow one


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply a function to each item, on as many threads as there are cores, and yield the results in order.

    It pays where the function leaves Python's lock, as decoding pictures does. Items are taken one by one, a few ahead
    of the results, so neither all items nor all results are ever in memory.

    Raises:
        Exception: what the function raises, at the place of its item.

    >>> list(map_in_order(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    n_threads = os.cpu_count() or 1
    waiting = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # nobody wants these any more
                future.cancel()
