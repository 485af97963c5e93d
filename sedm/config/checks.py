"""Checks of settings, each of which names the setting, its value and what it may be."""

from __future__ import annotations

import difflib
import math


def check_positive(config, *names: str) -> None:
    """Refuse settings that are not finite and greater than 0."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name}={getattr(config, name)}; it must be greater than 0")


def check_not_negative(config, *names: str) -> None:
    """Refuse settings that are below 0 or not finite."""
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name}={getattr(config, name)}; it must be 0 or more")


def check_whole(config, *names: str) -> None:
    """Refuse settings that are no whole numbers of 1 or more."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}; it must be a whole number of 1 or more")


def check_fraction(config, *names: str) -> None:
    """Refuse settings outside [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)}; it must lie in [0, 1]")


def known_name(what: str, name: str, known) -> str:
    """Return ``name``, which must be among ``known``.

    Raises:
        ValueError: it is not; the message lists the known names and says which of them is nearest.

    >>> known_name("preset", "quick", ["smoke", "quick"])
    'quick'
    """
    if name in list(known):  # in a dictionary, a list could not be looked up
        return name
    nearest = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise ValueError(f"{what}={name!r}; choose one of {', '.join(known)}{hint}")
