"""What is in a data set, every fault of it at once, and what will hurt: before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from sedm.config import Study, read_study
from sedm.config.study import FILE
from sedm.data.errors import PatchTableError
from sedm.data.patches import Patches
from sedm.data.reduce import FITS
from sedm.data.source_summary import SourceSummary
from sedm.data.sources import find_source_faults, list_splits, load_table
from sedm.data.study_draft import draft_study
from sedm.data.study_source import StudySource
from sedm.figures import colour_layout, image_grid

N_COLUMNS, SHEET_SIDE = 8, 96  # groups on the sheet, and px a side of their pictures


def check_source(source: StudySource) -> tuple[SourceSummary, list[PatchTableError]]:
    """Open every picture of a study; return what is there, and every fault.

    Memory grows with groups and faults, and by a hash an image.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for kind, value in (("images", 9), ("masks", 1)):
    ...         for group in "ab":
    ...             path = Path(folder, kind, group, "0.png")
    ...             path.parent.mkdir(parents=True)
    ...             Image.new("L", (8, 8), value if group == "a" else 7).save(path)
    ...     _ = Path(folder, "study.toml").write_text('name = "mine"\\nclasses = ["glass", "gland"]')
    ...     summary, faults = check_source(StudySource(read_study(folder)))
    >>> summary.n_images.total(), [fault.value for fault in faults]
    (1, [7])
    """
    summary, faults = SourceSummary(source.study.classes, source.study.fit), []
    n_classes = len(source.study.classes)
    for split in list_splits(source.path, source.format) or ("",):
        faults += find_source_faults(source.path, source.format, split, n_classes, summary.add)
    size = next((size for size in summary.sizes if size[0] != size[1]), None)
    if size and not source.study.fit and not source.format.tile_size:
        message = f'{source.path}: images of {size[0]}×{size[1]} px are no squares; say fit = "{FITS[0]}" in {FILE}, or'
        faults.append(PatchTableError(f"{message} {', '.join(map(repr, FITS[1:]))}"))
    if not faults:
        try:
            source.check_splits()
        except PatchTableError as fault:
            faults.append(fault)
    return summary, faults


def draw_sheet(source: StudySource) -> Figure:
    """Draw an image of each of some groups, annotated ones with their masks, then some without."""
    splits = list_splits(source.path, source.format)
    table = load_table(source.path, source.format, next(iter(splits), ""))
    is_annotated = torch.from_numpy(table.data.column("mask").is_valid().to_numpy())
    groups, parts, labels = table["group"][:], [], []
    for told in (True, False):
        first = {}
        for row in (is_annotated == told).nonzero().flatten().tolist():
            first.setdefault(groups[row], row)
        rows = list(first.values())[:N_COLUMNS]
        if not rows:
            continue
        options = {"fit": source.study.fit or "crop", "name": str(source.path)}
        options["fit"] = "crop" if options["fit"] == "tile" else options["fit"]
        patches = Patches.from_table(table.select(rows), source.study.classes, SHEET_SIDE, **options)
        empty = torch.full((N_COLUMNS - len(rows), 3, SHEET_SIDE, SHEET_SIDE), 255, dtype=torch.uint8)
        shown = (
            {"annotated": patches.images, "masks": colour_layout(patches.masks)}
            if told
            else {"not annotated": patches.images}
        )
        for label, pictures in shown.items():
            parts.append(torch.cat([pictures, empty]))
            labels.append(label)
    return image_grid(torch.cat(parts), N_COLUMNS, row_labels=labels, classes=source.study.classes)


def find_source(path: Path, data: Mapping[str, Any] | None = None) -> tuple[Study, str]:
    """Read the study of a folder, table or study.toml; where none describes it, draft one. Return it and the draft.

    Args:
        data: for the draft, see `sedm.data.study_draft.draft_study`.

    Raises:
        ValueError: nothing there, a study.toml that cannot be read, or ``data`` beside one.
    """
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".toml" or (path.is_dir() and (path / FILE).is_file()):
        study = read_study(path)
        if data:
            raise ValueError(f"{', '.join(data)}: {study.file} describes these images; say it there, in [data]")
        return study, ""
    if not path.exists():
        raise PatchTableError(f"{path}: no such file or folder")
    draft = draft_study(path, data)
    return read_study(folder / FILE, text=draft), draft
