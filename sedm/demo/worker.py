"""A thread that does the newest job: an older one is told to stop, and those in between are never begun."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Superseded(Exception):
    """Raised in a job when a newer one waits, or the program ends."""


class LatestWorker:
    """Run one job at a time, always the newest; the thread lives only while there is work.

    Args:
        on_error: takes, in that thread, what a job raised; the next job runs all the same.

    >>> worker, seen = LatestWorker(on_error=print), []
    >>> worker.submit(lambda check: seen.append("drawn"))
    >>> worker.wait(), seen
    (True, ['drawn'])
    """

    def __init__(self, on_error: Callable[[Exception], None]):
        self._on_error = on_error
        self._lock = threading.Condition()
        self._next: Callable[[Callable[[], None]], None] | None = None
        self._busy = False

    def submit(self, job: Callable[[Callable[[], None]], None]) -> None:
        """Start a job in the background; the one now running is superseded.

        Args:
            job: takes ``check``, a function that raises ``Superseded`` when a newer job waits or the program ends, and
                calls it often.
        """
        with self._lock:
            self._next = job
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all work is done; False when it is not within ``timeout`` seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._busy, timeout)

    def _work(self) -> None:
        while True:
            with self._lock:
                job, self._next = self._next, None
                if job is None:
                    self._busy = False
                    self._lock.notify_all()
                    return
            try:
                job(self._check)
            except Superseded:
                pass
            except Exception as error:
                self._on_error(error)
            finally:
                del job  # or it would live, with all it holds, until the next one ends

    def _check(self) -> None:
        if self._next is not None or not threading.main_thread().is_alive():  # the program ends
            raise Superseded
