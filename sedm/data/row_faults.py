"""Every fault of the rows of a table: what ``check_patches`` raises the first of, and ``find_faults`` lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import datasets
import numpy as np
from PIL import Image

from sedm.data.class_values import ClassValues
from sedm.data.errors import PatchTableError
from sedm.data.groups import name_group
from sedm.data.pictures import locate
from sedm.data.reading import PatchReader
from sedm.data.source_summary import RowFacts
from sedm.runtime.threads import map_in_order

Row = Mapping[str, Any]


def find_row_faults(
    rows: Iterable[Row],
    values: ClassValues,
    name: str,
    reader: PatchReader | None = None,
    labels: datasets.ClassLabel | None = None,
    observe: Callable[[RowFacts], None] | None = None,
) -> Iterator[PatchTableError]:
    """Open every picture, on all cores, and yield each fault, in the order of the rows.

    Args:
        rows: with ``image``, ``mask`` and ``group``, as a table stores them.
        values: learns which values the masks hold.
        name: of the table, for the messages.
        reader: knows how the pictures are stored; as in a patch table when left out.
        labels: whose names the groups are indices of.
        observe: is told what each image without a fault is like.

    >>> rows = [{"image": None, "mask": [[3]], "group": ""}, {"image": [[0]], "mask": [[3]], "group": "a"}]
    >>> [(fault.row, fault.column) for fault in find_row_faults(rows, ClassValues(n_classes=2), "mine")]
    [(0, 'group'), (0, 'image'), (1, 'mask')]
    """
    reader = reader or PatchReader()
    group_column = reader.source_format.group_column or "group"

    def inspect(numbered: tuple[int, Row]) -> tuple[list[PatchTableError], RowFacts | None, str, str | None]:
        number, row = numbered
        where = f"{name}, row {number}"
        faults: list[PatchTableError] = []
        group = ""
        try:
            group = name_group(row["group"], f"{where}, column {group_column!r}", labels)
        except PatchTableError as fault:
            faults.append(fault.at(column="group"))
        reading = reader.read(row["image"], row["mask"], where, faults.append)
        facts = None
        if reading is not None:
            counts = None if reading.mask is None else np.bincount(reading.mask.ravel(), minlength=256)
            facts = RowFacts(group, reading.image.size, counts, _hash_of(reading.image))
        file = row["mask"].get("path") if isinstance(row["mask"], Mapping) else None
        place = locate(row["mask"], f"{where}, column 'mask'")
        # with its traceback, a fault would hold the pixels
        faults = [fault.at(row=number).with_traceback(None) for fault in faults]
        return faults, facts, place, file

    n_rows = 0
    for faults, facts, place, file in map_in_order(inspect, enumerate(rows)):
        yield from faults
        is_sound = facts is not None and not faults
        if facts is not None and facts.counts is not None:
            try:
                values.add_present(facts.counts > 0, place)
            except PatchTableError as fault:
                is_sound = False
                yield fault.at(file, n_rows, "mask")
        if is_sound and observe is not None:
            observe(facts)
        n_rows += 1
    if n_rows == 0:
        yield PatchTableError(f"{name}: the table has no rows")
    try:
        reader.refuse_threshold(name)
    except PatchTableError as fault:
        yield fault


def _hash_of(image: Image.Image) -> int | None:
    """Hash the pixels of an image; None of one that is a single colour, as empty glass is in any group."""
    if all(low == high for low, high in np.reshape(image.getextrema(), (-1, 2))):
        return None
    return hash((image.mode, image.size, image.tobytes()))
