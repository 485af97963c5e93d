"""Where patch tables come from: drawn on the fly, or read from files the user names."""

from __future__ import annotations

from pathlib import Path

import datasets

from sedm.config import Config
from sedm.config.studies import STUDIES
from sedm.data.folders.image_folder import (
    load_image_folder as load_image_folder,  # its home; the name is a source like the others
)
from sedm.data.hub import load_hub_dataset as load_hub_dataset
from sedm.data.patch_table import PatchTableError, check_tables, find_splits, load_patches
from sedm.data.splits import check_splits

SPLITS = ("train", "validation", "test", "shifted")


def load_study(config: Config, folder: str | Path = "") -> dict[str, datasets.Dataset]:
    """The checked patch tables of a study by split: ``train``, ``test`` and, where there are such, two more.

    ``validation`` trains the networks that measure fidelity; ``shifted`` holds groups of another population, with other
    stains or another scanner, and is only tested on.

    Args:
        config: its study decides the source, its seed and data settings what an embedded study draws.
        folder: parquet files of a study that is not embedded.

    Raises:
        ValueError: a folder for an embedded study, or none for another.
        PatchTableError: the first fault of the tables.

    >>> from sedm.config import build_config
    >>> {split: len(table) for split, table in load_study(build_config("tissue", "smoke")).items()}
    {'train': 24, 'validation': 12, 'test': 18, 'shifted': 12}
    """
    study = STUDIES[config.study]
    if not isinstance(folder, str | Path):
        raise ValueError(f"data={folder!r}; give the folder as text, in quotes (papermill: -r data …)")
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
    check_tables({names[split]: table for split, table in splits.items()}, len(study.classes))
    return splits


def _draw(config: Config) -> dict[str, datasets.Dataset]:
    from sedm.data.drawn.flowers import make_flowers
    from sedm.data.drawn.tissue import make_tissue

    make = {"tissue": make_tissue, "flowers": make_flowers}[config.study]
    first = {"tissue": "first_patient", "flowers": "first_species"}[config.study]
    sizes, splits, start = config.data, {}, 0
    for split in SPLITS:
        n_groups = getattr(sizes, f"n_{split}_groups")
        options = {"image_size": sizes.image_size, "seed": config.seed, first: start}
        if split == "shifted":
            options["population"] = "shifted"
        if n_groups:
            splits[split] = make(n_groups, sizes.n_images_per_group, **options)
        start += n_groups
    return splits


def _read(folder: Path, group_column: str) -> tuple[dict[str, datasets.Dataset], dict[str, str]]:
    if not folder.is_dir():
        raise PatchTableError(f"DATA={folder}: no such folder; expected train.parquet and test.parquet in it")
    found = find_splits(folder)
    for split in ("train", "test"):
        if split not in found:
            raise PatchTableError(f"{folder}: no {split}.parquet")
    splits = {split: load_patches(folder, split, group_column) for split in SPLITS if split in found}
    names = {split: str(files[0] if len(files) == 1 else folder / split) for split, files in found.items()}
    return splits, names
