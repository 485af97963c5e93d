"""Where patch tables come from: drawn on the fly, or read from files the user names."""

from __future__ import annotations

import csv
from pathlib import Path

import datasets

from sedm.config import STUDIES, Config
from sedm.data.patches import PatchTableError, check_patches, load_patches
from sedm.data.splits import check_splits

SPLITS = ("train", "validation", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def load_study(config: Config, folder: str | Path = "") -> dict[str, datasets.Dataset]:
    """The checked patch tables of a study by split: ``train``, ``test`` and, where there is one, ``validation``.

    Args:
        config: its study decides the source, its seed and data settings what an embedded study draws.
        folder: parquet files of a study that is not embedded.

    Raises:
        ValueError: a folder for an embedded study, or none for another.
        PatchTableError: the first fault of the tables.

    >>> from sedm.config import build_config
    >>> {split: len(table) for split, table in load_study(build_config("tissue", "smoke")).items()}
    {'train': 24, 'validation': 12, 'test': 18}
    """
    study = STUDIES[config.study]
    if study.embedded and folder:
        raise ValueError(f"DATA={str(folder)!r}, but the study {config.study!r} is embedded: leave DATA out")
    if not study.embedded and not folder:
        raise ValueError(f"the study {config.study!r} needs DATA=<folder of its parquet files> (see data/README.md)")
    if study.embedded:
        splits, names = _draw(config), {split: f"{config.study} {split}" for split in SPLITS}
    else:
        splits, names = _read(Path(folder), study.group_column)
    if not study.shared_groups:
        check_splits(splits)
    for split, table in splits.items():
        check_patches(table, len(study.classes), names[split])
    return splits


def load_image_folder(folder: str | Path) -> datasets.Dataset:
    """The patch table of a folder with ``images/`` and, under the same names, ``masks/`` of PNG files.

    Groups are the sub-folders of ``images/``, or the columns ``file_name,group`` of ``metadata.csv``. A missing
    mask file means: not annotated. The name of each file is kept as ``file_name``.

    Raises:
        PatchTableError: no images, an image without a group, or a table of groups without its columns.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "images" / "case-7" / "a.png"
    ...     path.parent.mkdir(parents=True)
    ...     Image.new("RGB", (8, 8)).save(path)
    ...     load_image_folder(folder)["group"][:]
    ['case-7']
    """
    folder = Path(folder)
    files = sorted(path for path in (folder / "images").rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise PatchTableError(f"{folder / 'images'}: no image files")
    names = [path.relative_to(folder / "images") for path in files]
    metadata = folder / "metadata.csv"
    if metadata.exists():
        with metadata.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"file_name", "group"} <= rows[0].keys():
            raise PatchTableError(f"{metadata}: expected the columns file_name,group")
        group_of = {row["file_name"]: row["group"] for row in rows}
    else:
        group_of = {name.as_posix(): name.parts[0] for name in names if len(name.parts) > 1}
    masks = {path.relative_to(folder / "masks").with_suffix(""): path for path in (folder / "masks").rglob("*.png")}
    for name in names:
        if name.as_posix() not in group_of:
            raise PatchTableError(f"{folder / 'images' / name}: no group; use images/<group>/<file> or metadata.csv")
    table = datasets.Dataset.from_dict(
        {
            # bytes, not paths: a saved table must not depend on the folder it came from
            "image": [{"bytes": path.read_bytes(), "path": None} for path in files],
            "mask": [
                {"bytes": masks[name].read_bytes(), "path": None} if name in masks else None
                for name in (name.with_suffix("") for name in names)
            ],
            "group": [group_of[name.as_posix()] for name in names],
            "file_name": [name.as_posix() for name in names],
        }
    )
    return table.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def _draw(config: Config) -> dict[str, datasets.Dataset]:
    from sedm.data.flowers import make_flowers
    from sedm.data.tissue import make_tissue

    make = {"tissue": make_tissue, "flowers": make_flowers}[config.study]
    first = {"tissue": "first_patient", "flowers": "first_species"}[config.study]
    sizes, splits, start = config.data, {}, 0
    for split in SPLITS:
        n_groups = getattr(sizes, f"n_{split}_groups")
        if n_groups:
            splits[split] = make(
                n_groups, sizes.n_images_per_group, image_size=sizes.image_size, seed=config.seed, **{first: start}
            )
        start += n_groups
    return splits


def _read(folder: Path, group_column: str) -> tuple[dict[str, datasets.Dataset], dict[str, str]]:
    if not folder.is_dir():
        raise PatchTableError(f"DATA={folder}: no such folder; expected train.parquet and test.parquet in it")
    found = {split: folder / f"{split}.parquet" for split in SPLITS if (folder / f"{split}.parquet").exists()}
    for split in ("train", "test"):
        if split not in found:
            raise PatchTableError(f"{folder}: no {split}.parquet")
    splits = {split: load_patches(path, group_column=group_column) for split, path in found.items()}
    return splits, {split: str(path) for split, path in found.items()}
