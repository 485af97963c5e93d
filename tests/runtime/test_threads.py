"""Work shared by threads: results in order, few in memory, faults at their place, no thread left behind."""

import random
import threading
import time

import pytest

from sedm.runtime import threads
from sedm.runtime.threads import map_in_order


def test_results_come_in_the_order_of_the_items_whichever_ends_first():
    delays = random.Random(0)
    pauses = [delays.random() / 500 for _ in range(100)]

    def square(number):
        time.sleep(pauses[number])
        return number**2

    assert list(map_in_order(square, range(100))) == [number**2 for number in range(100)]


def test_items_are_taken_only_a_few_ahead_of_the_results(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 3)
    taken = []
    results = map_in_order(abs, (taken.append(number) or number for number in range(10_000)))
    for number in range(5):
        assert next(results) == number
    assert len(taken) <= 5 + threads.AHEAD * 3 + 1


def test_a_fault_comes_at_the_place_of_its_item():
    results = map_in_order(lambda number: 1 / number, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_thread_is_left_when_the_results_are_not_all_taken():
    before = threading.active_count()
    results = map_in_order(abs, range(1000))
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before
