"""Tables that name pictures: ``metadata.csv`` of an image folder, and spreadsheets of paths wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedm.data.errors import PatchTableError, Report, raise_fault
from sedm.data.folders.file_names import MASK_SUFFIXES, comparable, lossy_mask, suffix
from sedm.data.folders.roots import Roots
from sedm.data.folders.spreadsheets import read_spreadsheet
from sedm.data.mask_runs import holds_runs
from sedm.data.source_format import SourceFormat

PICTURE_COLUMNS = ("image", "mask")
"""Columns of a patch table that hold pictures, so that a spreadsheet may not use their names for anything else."""


def read_path_table(path: Path, source_format: SourceFormat, report: Report = raise_fault) -> list[dict]:
    """Read a spreadsheet with a row an image: paths of its image and mask, its group, and further columns of text.

    Relative paths begin at the folder of the file. An empty mask means: not annotated. Several rows of one image are
    one, where its mask is in run lengths, as tables with a row an object have it.

    Args:
        path: text in any encoding and with any separator of ``read_spreadsheet``.
        source_format: what the columns are called.
        report: is told each fault, and its row is left out.

    Raises:
        PatchTableError: a spreadsheet without these columns.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "a.png").touch()
    ...     table = Path(folder) / "images.csv"
    ...     _ = table.write_text("file;rle;patient\\na.png;1 3;7")
    ...     columns = {"image_column": "file", "mask_column": "rle", "group_column": "patient"}
    ...     rows = read_path_table(table, SourceFormat(mask_kind="run-lengths", **columns))
    ...     [(Path(row["image"]).name, row["mask"], row["group"]) for row in rows]
    [('a.png', '1 3', '7')]
    """
    columns = {role: getattr(source_format, f"{role}_column") for role in (*PICTURE_COLUMNS, "group")}
    filled = [columns[role] for role in ("image", "group") if columns[role]]
    rows: dict[str, dict] = {}
    called_by = {columns[role]: f"{role}_column" for role in columns}
    for line, cells in read_spreadsheet(path, filled, report, called_by).items():
        where = f"{path}, line {line}"
        if columns["mask"] and columns["mask"] not in cells:
            hint = "say mask_column=…, which is '' for images that nobody annotated"
            message = f"{path}: no column {columns['mask']!r}; it has {', '.join(cells)}; {hint}"
            raise PatchTableError(message, column=columns["mask"])
        image = _resolve(path, cells.pop(columns["image"]))
        mask = cells.pop(columns["mask"]) if columns["mask"] else ""
        group = cells.pop(columns["group"]) if columns["group"] else str(image)
        for role in columns:
            if role in cells:
                raise PatchTableError(f"{path}: {role}_column={columns[role]!r}, but it has a column {role!r} as well")
        fault = None
        is_path = mask and source_format.mask_kind != "run-lengths"
        if not os.path.isfile(image):
            fault = PatchTableError(f"{where}: no such file, {image}", file=image, column=columns["image"])
        elif is_path and not os.path.isfile(_resolve(path, mask)) and holds_runs(mask):
            remedy = "it holds run lengths, no paths: say mask_kind='run-lengths'"
            message = f"{where}, column {columns['mask']!r}: {mask[:20]!r}; {remedy}"
            fault = PatchTableError(message, column=columns["mask"], value=mask[:50])
        elif is_path and not os.path.isfile(_resolve(path, mask)):
            mask_file = _resolve(path, mask)
            fault = PatchTableError(f"{where}: no such file, {mask_file}", file=mask_file, column=columns["mask"])
        elif is_path and suffix(mask) not in MASK_SUFFIXES:
            fault = lossy_mask(_resolve(path, mask))
        elif str(image) in rows and (is_path or not mask):
            fault = PatchTableError(f"{where}: {image} is there twice", file=image, column=columns["image"])
        elif str(image) in rows and rows[str(image)]["group"] != group:
            groups = f"{rows[str(image)]['group']!r} and {group!r}"
            fault = PatchTableError(f"{where}: {image} is in two groups, {groups}", column="group", value=group)
        if fault is not None:
            report(fault.at(path, line))
        elif str(image) in rows:
            rows[str(image)]["mask"] += f" {mask}"
        else:
            mask = str(_resolve(path, mask)) if is_path else mask or None
            rows[str(image)] = {"image": str(image), "mask": mask, "group": group, **cells}
    return list(rows.values())


def read_metadata(
    roots: Roots,
    pictures: Mapping[str, str],
    masks: Sequence[tuple[str, str]],
    source_format: SourceFormat,
    report: Report = raise_fault,
) -> dict[str, dict]:
    """Read what ``metadata.csv`` says of each picture: its group, its mask if it names masks, and further columns.

    Args:
        pictures, masks: the files that there are, by their names in the folders of images and masks.
        report: is told each fault, and its row is left out.

    Raises:
        PatchTableError: a table without the columns, or with columns of the patch table's own names.
    """
    metadata = roots.folder / "metadata.csv"
    group_column = source_format.group_column
    names = {comparable(name): name for name in pictures}
    files = {comparable(name): path for name, path in masks}
    rows: dict[str, dict] = {}
    names_masks = False
    columns = list(filter(None, ("file_name", group_column)))
    for line, row in read_spreadsheet(metadata, columns, report, {group_column: "group_column"}).items():
        where = f"{metadata}, line {line}"
        for column in PICTURE_COLUMNS:
            if column in row:
                raise PatchTableError(
                    f"{metadata}: the column {column!r} is kept for pictures; name files mask_file_name"
                )
        file_name = row.pop("file_name")
        name = names.get(comparable(file_name))
        mask_name = row.pop("mask_file_name", None)
        names_masks = mask_name is not None
        mask = files.get(comparable(mask_name)) if mask_name else None
        fault = None
        if name is None:
            path = roots.images / file_name
            reason = "a mask by its name, or no picture" if path.is_file() else "no such file"
            fault = PatchTableError(f"{where}: {reason}, {path}", column="file_name", value=file_name)
        elif name in rows:
            fault = PatchTableError(f"{where}: {name!r} is there twice", column="file_name", value=file_name)
        elif mask_name and mask is None:
            message = f"the mask of {name!r} is not there, {roots.masks / mask_name}"
            fault = PatchTableError(f"{where}: {message}", column="mask_file_name", value=mask_name)
        elif mask is not None and suffix(mask) not in MASK_SUFFIXES:
            fault = lossy_mask(mask)
        if fault is not None:
            report(fault.at(metadata, line))
            names.pop(comparable(file_name), None)
            continue
        row["group"] = row.pop(group_column) if group_column else name
        if names_masks:
            row["mask"] = mask  # an empty name: nobody annotated it
        rows[name] = row
    used = {row.get("mask") for row in rows.values()}
    for name in names.values():
        if name not in rows:
            message = f"no group; {metadata.name} has no row for {name!r}"
            report(PatchTableError(f"{pictures[name]}: {message}", file=pictures[name], column="group"))
    for name, path in masks if names_masks else ():
        if suffix(name) in MASK_SUFFIXES and path not in used:
            report(PatchTableError(f"{path}: {metadata.name} names no image for this mask", file=path))
    return rows


def _resolve(table: Path, cell: str) -> Path:
    """Find the file of a cell, whichever system's slashes it has; a relative path begins at the folder of the table."""
    path = table.parent / cell
    return path if os.path.isfile(path) else table.parent / cell.replace("\\", "/")
