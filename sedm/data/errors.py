"""The error of everything that reads or makes a patch table."""

from __future__ import annotations


class PatchTableError(ValueError):
    """A patch table (or what should become one) breaks the format; the message names the culprit."""
