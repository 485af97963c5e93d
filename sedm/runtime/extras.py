"""Libraries that only some uses of sedm need: they come with extras such as ``pip install "sedm[slides]"``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtraError(ImportError):
    """A library of an extra is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra to install where a library that is imported in this block is missing.

    Raises:
        MissingExtraError: a library is missing.

    >>> with extra("slides"):
    ...     import a_library_for_slides
    Traceback (most recent call last):
    ...
    sedm.runtime.extras.MissingExtraError: a_library_for_slides is not installed; pip install "sedm[slides]" brings it
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        raise MissingExtraError(f'{library} is not installed; pip install "sedm[{name}]" brings it') from error
