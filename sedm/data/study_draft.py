"""A first study.toml for a folder or table of images, from a look at some of its masks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sedm.config import known_name
from sedm.data.conversion import undecoded
from sedm.data.mask_runs import holds_runs
from sedm.data.pictures import UNKNOWN, decode, has_alpha, is_deep, open_picture
from sedm.data.source_format import SourceFormat
from sedm.data.sources import list_splits, open_table

N_LOOKED_AT = 200  # rows, spread over the table
MOST_CLASSES = 32
MOST_SMOOTHED = 0.2  # of the pixels of a smoothed mask in black and white are grey


def draft_study(source: str | Path, data: Mapping[str, Any] | None = None) -> str:
    """Write a study.toml for a folder or table of images, to be read and corrected by whoever knows them.

    Args:
        data: what cannot be guessed; keys of the file's table ``data``, see `SourceFormat`.

    Raises:
        PatchTableError: nothing there, or nothing that can be read.
        ValueError: a key that there is not, or a value that makes no sense.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for kind in ("images", "masks"):
    ...         path = Path(folder, kind, "a", "0.png")
    ...         path.parent.mkdir(parents=True)
    ...         Image.new("L", (8, 8), 255).save(path)
    ...     text = draft_study(folder)
    >>> print(text[text.index("[classes]") :].split("\\n\\n")[0])
    [classes]  # the first is the background; names are yours to choose
    background = 0
    foreground = 255
    """
    source, known = Path(source), dict(data or {})
    keys = [one.name for one in fields(SourceFormat) if one.name not in ("classes", "unknown", "mask_values")]
    for key in known:
        known_name("key", key, keys)
    if not source.is_dir() and "mask_kind" not in known and _holds_runs(source, known):
        known["mask_kind"] = "run-lengths"
    form = SourceFormat(**known)
    splits = list_splits(source, form)
    split = "train" if "train" in splits else next(iter(splits), "")
    table = open_table(source, form, split)
    rows = sorted({int(row) for row in np.linspace(0, len(table) - 1, N_LOOKED_AT)})
    stored = undecoded(table.select_columns(["image", "mask"]))
    masks = [mask for mask in stored.select(rows)["mask"] if mask is not None]
    if not masks:  # annotated ones may be few
        annotated = np.flatnonzero(np.array(table.data.column("mask").is_valid()))[:N_LOOKED_AT]
        masks = stored.select(annotated)["mask"][:]
    if form.n_classes == 2:  # for it is known what masks hold
        classes, data = ["background", "foreground"], {}
    else:
        classes, data = _describe_masks(decode(mask, f"{source}, column 'mask'", is_mask=True) for mask in masks)
    data |= _describe_images(stored.select(rows)["image"]) | known
    if not source.is_dir():
        data["source"] = source.name
    name = source.absolute().stem if not source.is_dir() else source.absolute().name
    group = form.group_column or "image"
    lines = [
        f"title = {json.dumps(name, ensure_ascii=False)}",
        f"group = {json.dumps(group, ensure_ascii=False)}  # what shares a style: a patient, a case, a species",
        "stained = true  # by haematoxylin and eosin",
        "upright = false  # have images an upper end, so that they may be mirrored, but not turned?",
        "redistributable = false  # may a figure show the real images to others?",
        *(['fit = "crop"  # or "pad", "squeeze", "tile": images are no squares'] if data.pop("fit", "") else []),
        'licence = ""',
        'cite = ""',
        "",
    ]
    if isinstance(classes, list):
        lines.insert(0, f"classes = {json.dumps(classes)}  # the first is the background; names are yours to choose")
    else:
        lines.append("[classes]  # the first is the background; names are yours to choose")
        lines += [f"{name} = {json.dumps(value)}" for name, value in classes.items()]
        lines.append("")
    if data:
        lines += ["[data]", *(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in data.items()), ""]
    if not splits:
        lines += ["[splits]  # of the annotated groups; the others are for training", "test_fraction = 0.4"]
        lines += ["validation_fraction = 0.2", ""]
    return "\n".join(lines)


def _holds_runs(source: Path, known: Mapping[str, Any]) -> bool:
    """Tell whether the masks of a table are text of run lengths."""
    masks = open_table(source, SourceFormat(**known, mask_kind="run-lengths"), "").select_columns(["mask"])
    first = next((row["mask"] for row in undecoded(masks) if row["mask"] is not None), None)
    return holds_runs(first)


def _describe_masks(masks: Iterable[Image.Image]) -> tuple[list[str] | dict[str, Any], dict[str, Any]]:
    """Guess the classes of masks from their values: names alone, or with the value of each, and keys of ``data``."""
    counts: Counter[Any] = Counter()
    by_colour = False
    for mask in masks:
        if mask.mode in ("RGB", "RGBA"):
            pixels = np.asarray(mask.convert("RGB")).reshape(-1, 3)
            by_colour = by_colour or bool((pixels != pixels[:, :1]).any())
            codes = pixels @ np.array([65536, 256, 1])
        else:
            codes = np.asarray(mask.convert("L") if mask.mode == "LA" else mask).astype(np.int64).ravel()
        values, n = np.unique(codes, return_counts=True)
        counts.update(dict(zip(values.tolist(), n.tolist(), strict=True)))
    if by_colour:
        codes = [code for code, _ in counts.most_common(MOST_CLASSES)]
        codes.sort(key=bool)  # black is the background, wherever it is a colour of masks
        return dict(zip(_names(codes), [f"#{code:06x}" for code in codes], strict=True)), {}
    grey = {code & 255 if code > 65535 else code: n for code, n in counts.items()}
    values, total = sorted(grey), sum(grey.values())
    ends = grey.get(0, 0) + grey.get(255, 0)
    if len(values) > 3 and values[-1] == 255 and ends >= (1 - MOST_SMOOTHED) * total:
        return ["background", "foreground"], {"mask_threshold": 127}
    if len(values) > MOST_CLASSES or (len(values) > 3 and values[-1] > 255):
        return ["background", "foreground"], {"mask_kind": "instances"}
    if not values:
        return ["background", "foreground"], {}
    if set(values) <= {0, 255}:
        return {"background": 0, "foreground": 255}, {}
    known = [value for value in values if value != UNKNOWN]
    data = {"unknown": UNKNOWN} if UNKNOWN in values else {}
    if len(known) < 2:
        known = [*known, known[0] + 1]
    return dict(zip(_names(known), known, strict=True)), data


def _names(values: Sequence[int]) -> list[str]:
    """Name the classes of these values; what stands out from 0 alone is the foreground."""
    if len(values) == 2 and values[0] == 0:
        return ["background", "foreground"]
    return ["background", *(f"class_{index}" for index in range(1, len(values)))]


def _describe_images(stored: Iterable[dict]) -> dict[str, Any]:
    """Find what the images need to become squares of 8 bits of RGB."""
    data: dict[str, Any] = {}
    for row, image in enumerate(stored):
        picture = open_picture(image, f"row {row}, column 'image'")
        if has_alpha(picture):
            data["alpha"] = "white"
        if is_deep(picture):
            data["intensity_range"] = "image"
        if picture.width != picture.height:
            data["fit"] = "crop"
    return data
