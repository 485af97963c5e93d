"""The data of a study: drawn on the fly, or read from parquet files that the user names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import datasets

from sedm.config import Config
from sedm.config.study import Study
from sedm.data.data_checksum import data_checksum
from sedm.data.groups import check_spelling
from sedm.data.patch_table import PatchTableError, find_splits, load_patches
from sedm.data.patches import Patches, decode_tables
from sedm.data.splits import check_splits
from sedm.data.study_source import StudySource

SPLITS = ("train", "validation", "test", "shifted")


@dataclass(frozen=True, eq=False)
class StudyData:
    """The data of a study, decoded, with all masks there are.

    Args:
        study: what the data are for.
        tables: the patch table of each split, which holds further columns.
        patches: the decoded patches of each split: ``train``, ``test`` and, where there are such, ``validation``, which
            trains the networks that measure fidelity, and ``shifted``, groups of another population, with other stains
            or another scanner, which are only tested on. Of two laboratories (`pair_studies`) ``train`` holds those of
            both, ``test`` the tested groups of the target, and ``source`` the test split of the other.
        lenders: training groups whose style is borrowed, and which never count as annotated; None for all groups that
            are not annotated in a label subset.
    """

    study: Study
    tables: dict[str, datasets.Dataset]
    patches: dict[str, Patches]
    lenders: frozenset[str] | None = None

    @property
    def train(self) -> Patches:
        """The training split, with all its masks."""
        return self.patches["train"]

    @property
    def test(self) -> Patches:
        """The test split."""
        return self.patches["test"]

    @property
    def validation(self) -> Patches:
        """The validation split.

        Raises:
            ValueError: the study has none.
        """
        if "validation" not in self.patches:
            raise ValueError("the study has no validation groups to train a judge of layouts on")
        return self.patches["validation"]

    @property
    def held_out(self) -> dict[str, Patches]:
        """All splits but the training one."""
        return {split: patches for split, patches in self.patches.items() if split != "train"}

    @property
    def held_out_groups(self) -> set[str]:
        """The groups that no generator may be trained on: those of which no image is in the training split.

        In most studies these are all groups of the other splits. Where groups may be shared (photographs of one breed),
        what is held out is the breeds that are new, not further photographs of the others.
        """
        return {group for patches in self.held_out.values() for group in patches.groups} - set(self.train.groups)

    @property
    def n_annotated_groups(self) -> int:
        """The number of training groups that people annotated, but lenders."""
        return len(set(self.train.annotated().groups) - (self.lenders or frozenset()))

    @cached_property
    def checksum(self) -> str:
        """Twelve hexadecimal digits that change with any pixel, mask or group."""
        return data_checksum(*self.patches.values())

    def settle(self, config: Config) -> Config:
        """Return the settings with counts of annotated groups that these data have.

        ``data.n_annotated_groups`` = 0 becomes the number of all of them, and arms with more labels are left out.

        >>> from sedm.config import build_config
        >>> config = build_config("tissue", "smoke")
        >>> all_masks = replace(config, data=replace(config.data, n_annotated_groups=0))
        >>> load_study(config).settle(all_masks).data.n_annotated_groups
        4
        """
        n_groups = self.n_annotated_groups
        label_counts = tuple(n for n in config.arms.label_counts if n <= n_groups)
        also_annotated = config.arms.also_annotated if config.arms.also_annotated <= n_groups else 0
        return replace(
            config,
            data=replace(config.data, n_annotated_groups=config.data.n_annotated_groups or n_groups),
            arms=replace(config.arms, label_counts=label_counts, also_annotated=also_annotated),
        )

    def label_subset(self, n_annotated_groups: int, seed: int) -> Patches:
        """Return the training patches with the masks of ``n_annotated_groups`` groups, drawn by ``seed``; 0 = of all.

        Natural images keep all their masks: there the question is the style of unseen groups, not the want of masks.
        Those of lenders are always hidden.
        """
        n = n_annotated_groups if self.study.question == "segmentation" else 0
        if not (n or self.lenders):
            return self.train
        return self.train.hide_masks(n or self.n_annotated_groups, seed, self.lenders or ())


def load_study(config: Config, folder: str | Path = "") -> StudyData:
    """Draw or read, check and decode the data of a study.

    Args:
        config: its study decides the source, its seed and data settings what an embedded study draws.
        folder: parquet files of a study that is not embedded.

    Raises:
        ValueError: a folder for an embedded study, or none for another.
        PatchTableError: the first fault of the tables.

    >>> from sedm.config import build_config
    >>> data = load_study(build_config("tissue", "smoke"))
    >>> {split: len(patches) for split, patches in data.patches.items()}
    {'train': 24, 'validation': 12, 'test': 18, 'shifted': 12}
    """
    study = config.study
    if not isinstance(folder, str | Path):
        raise ValueError(f"data={folder!r}; give the folder as text, in quotes (papermill: -r data …)")
    if study.file is not None and folder:
        raise ValueError(f"data {str(folder)!r}, but {study.file} says where its data lie: leave --data or DATA out")
    if study.laboratories is not None:
        return pair_studies(*(load_study(replace(config, study=one)) for one in study.laboratories), study)
    if study.file is not None:
        tables = StudySource(study).load()
        names = {split: f"{study.name} {split}" for split in tables}
    elif study.embedded and folder:
        raise ValueError(f"data {str(folder)!r}, but the study {study.name!r} is embedded: leave --data or DATA out")
    elif not study.embedded and not folder:
        raise ValueError(
            f"the study {study.name!r} needs the folder of its parquet files, by --data or DATA (see data/README.md)"
        )
    elif study.embedded:
        tables = _draw(config)
        names = {split: f"{study.name} {split}" for split in SPLITS}
    else:
        tables, names = _read(Path(folder), study.group_column)
    if not study.shared_groups:
        check_splits(tables)
    named_tables = {names[split]: table for split, table in tables.items()}
    decoded = decode_tables(named_tables, study.classes, config.data.image_size, fit=study.fit or None)
    for split in tables:
        foreign = set(decoded[names[split]].mask_source) - {"annotated", "none"}
        if split != "train" and foreign:
            raise PatchTableError(
                f"{names[split]}: has {min(foreign)} masks; test on masks that people made, and leave the others out"
            )
    return StudyData(study, tables, {split: decoded[names[split]] for split in tables})


def pair_studies(annotated: StudyData, target: StudyData, study: Study) -> StudyData:
    """Make one study of two laboratories: masks of the one, styles and test groups of the other.

    The training groups of both are training groups. Those of the target lend their styles and never count as
    annotated; its test groups are tested on, and so are, as the split ``source``, those of the annotated laboratory.
    The validation groups of the latter choose what is chosen. Where ``study.swapped``, training and test groups of the
    target change places.

    Raises:
        ValueError: other classes, a group of the same name in both, or no annotated image to test on.
        PatchTableError: two names that look like one group.
    """
    if annotated.train.classes != target.train.classes:
        raise ValueError(
            f"{study}: {annotated.study} has the classes {', '.join(annotated.train.classes)}, but {target.study} "
            f"{', '.join(target.train.classes)}; give both the same names in the same order"
        )
    ours, theirs = ({group for part in one.patches.values() for group in part.groups} for one in (annotated, target))
    if ours & theirs:
        raise ValueError(f"{study}: both laboratories have a group {min(ours & theirs)!r}; rename those of one")
    check_spelling(sorted(ours | theirs), str(study))
    lending, tested = ("test", "train") if study.swapped else ("train", "test")
    lenders, tests = target.patches[lending], target.patches[tested].annotated()
    if not len(tests):
        raise ValueError(
            f"{study}: of {target.study} no image of the split {tested!r} is annotated, so there is nothing to test on"
        )
    splits = {"train": Patches.concatenate([annotated.train, lenders]), "test": tests, "source": annotated.test}
    if "validation" in annotated.patches:
        splits["validation"] = annotated.validation
    tables = {"train": annotated.tables["train"], "test": target.tables[tested], "source": annotated.tables["test"]}
    return StudyData(study, tables, splits, frozenset(lenders.groups))


def _draw(config: Config) -> dict[str, datasets.Dataset]:
    from sedm.data.drawn.flowers import make_flowers
    from sedm.data.drawn.tissue import make_tissue

    make = {"tissue": make_tissue, "flowers": make_flowers}[config.study.name]
    first = {"tissue": "first_patient", "flowers": "first_species"}[config.study.name]
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
    """Read the tables of a folder, and what to call each in messages."""
    if not folder.is_dir():
        raise PatchTableError(f"{folder}: no such folder; expected train.parquet and test.parquet in it")
    files_of_splits = find_splits(folder)
    for split in ("train", "test"):
        if split not in files_of_splits:
            raise PatchTableError(f"{folder}: no {split}.parquet")
    splits = [split for split in SPLITS if split in files_of_splits]
    tables = {split: load_patches(folder, split, group_column) for split in splits}
    names = {split: str(files[0] if len(files) == 1 else folder / split) for split, files in files_of_splits.items()}
    return tables, names
