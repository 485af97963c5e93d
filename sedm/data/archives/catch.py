"""CATCH: 350 slides of seven canine skin tumours with polygons of thirteen tissues, turned into patch tables.

Wilm et al., Pan-tumor CAnine cuTaneous Cancer Histology (CATCH) dataset, Scientific Data 9, 588 (2022).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import datasets

from sedm.data.archives.catch_slides import (
    ABOUT,
    CLASS_SETS,
    MICRONS_PER_PIXEL,
    SOURCE,
    Sampling,
    choose_annotated,
    parse_slide_name,
    read_split_file,
    split_slides,
)
from sedm.data.archives.public_tables import SPLITS, PublicTables, spool
from sedm.data.patch_table import PatchTableError
from sedm.data.slides.annotations import read_polygons
from sedm.data.slides.slide_jobs import SlideJob, cut, first_names, note_outside, survey, with_outside, with_resolution

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "group": datasets.Value("string"),
        "slide": datasets.Value("string"),
        "tumour_type": datasets.Value("string"),
        "x_microns": datasets.Value("float64"),
        "y_microns": datasets.Value("float64"),
        "microns_per_pixel": datasets.Value("float64"),
    }
)


def make_catch(
    slide_folder: str | Path,
    annotation_file: str | Path,
    cache_folder: str | Path,
    sampling: Sampling | None = None,
    split_file: str | Path | None = None,
    allow_missing: bool = False,
    microns_per_pixel: float | None = None,
) -> PublicTables:
    """Make the patch tables of CATCH: ``train``, ``validation``, ``test``.

    Every slide gives ``n_patches_per_slide`` patches. Those of validation, test and the chosen training slides have
    masks; the other training slides are sampled anywhere on their tissue, lend their style, and need no annotation.
    Columns: ``image``, ``mask``, ``group`` (patient), ``slide`` (file name), ``tumour_type``, ``x_microns`` and
    ``y_microns`` (left top corner of the patch, from that of the slide), ``microns_per_pixel``.

    Args:
        slide_folder: the slides, also in sub-folders.
        annotation_file: ``CATCH.sqlite`` or ``CATCH.json``.
        cache_folder: where patches lie on disk while the tables are in use.
        split_file: the authors' ``datasets.csv``, in place of a random split.
        allow_missing: go on with the slides that are there; else missing ones are an error.
        microns_per_pixel: of the finest level of slides whose files do not say; a file's own word goes first, with a
            warning if it says otherwise. The resolution of the patches is ``sampling.microns_per_pixel``.

    Raises:
        PatchTableError: the first fault, before any slide is read where it can be known: missing files, slides
            without annotation that need one, too few patients; then, before any is cut, slides without resolution,
            tissue or room for a patch, and polygons that miss their slide; then a broken slide, by its file.
        ValueError: patches finer than a slide.

    Warns:
        UserWarning: polygons that lie wholly or partly outside of their slide, counted for each slide; slides that
            state another resolution than the given one.
    """
    sampling = sampling or Sampling()
    annotation_file = Path(annotation_file)
    jobs, splits = _plan(Path(slide_folder), annotation_file, sampling, split_file, allow_missing)
    jobs = with_resolution(jobs, microns_per_pixel, typical=f"; CATCH's is {MICRONS_PER_PIXEL:g}")
    jobs = survey([with_outside(job) for job in jobs], sampling, sampling.class_index)
    jobs_by_split = {split: [job for job in jobs if splits[job.path.name] == split] for split in SPLITS}
    tables = {}
    for split, of_split in jobs_by_split.items():
        rows = cut(of_split, sampling, sampling.class_index, split)
        tables[split] = spool(rows, FEATURES, Path(cache_folder) / f"{split}.arrow")
    return PublicTables(
        tables=tables,
        about=ABOUT,
        notes=_notes(jobs_by_split, sampling, split_file),
        sources=[annotation_file],
    )


def _plan(
    slide_folder: Path,
    annotation_file: Path,
    sampling: Sampling,
    split_file: str | Path | None,
    allow_missing: bool,
) -> tuple[list[SlideJob], dict[str, str]]:
    """Decide which slides to cut, with or without masks, and the split of each by its name; open none."""
    if not slide_folder.is_dir():
        raise PatchTableError(f"{slide_folder}: no such folder; expected the slides of CATCH")
    splits = None if split_file is None else read_split_file(split_file)
    polygons = read_polygons(annotation_file)
    expected = set(polygons if splits is None else splits)
    paths = {path.name: path for path in sorted(slide_folder.rglob("*")) if path.name in expected}
    missing = sorted(expected - paths.keys())
    if missing:
        sentence = f"{slide_folder}: {len(missing)} of {len(expected)} slides are missing ({first_names(missing)})"
        if not allow_missing or not paths:
            raise PatchTableError(f"{sentence}; get them from {SOURCE}, or go on without them by allow_missing=True")
        warnings.warn(sentence, stacklevel=3)
    slides = sorted(paths)
    for name, drawn in polygons.items():
        strange = {polygon.class_name for polygon in drawn} - sampling.class_index.keys()
        if name in paths and strange:
            raise PatchTableError(f"{annotation_file}, {name}: class {min(strange)!r} is none of CATCH's")
    outlined = [name for name in slides if polygons.get(name)]
    if splits is None:
        splits = split_slides(slides, outlined, sampling)
    masks = {name for name in slides if splits[name] != "train"}
    trainable = [name for name in outlined if splits[name] == "train"]
    if sampling.annotated_per_type is None:
        masks.update(trainable)
    else:
        masks.update(choose_annotated(trainable, sampling.annotated_per_type, sampling.seed))
    for split in SPLITS:
        if not any(splits[name] == split for name in slides):
            raise PatchTableError(f"{slide_folder}: no slide for {split}; get more slides or give another split_file")
    for name in sorted(masks - set(outlined)):
        raise PatchTableError(f"{annotation_file}: no polygons on {name}, which is in {splits[name]}")
    jobs = [SlideJob(paths[name], polygons[name] if name in masks else None, _columns(name)) for name in slides]
    return jobs, splits


def _columns(slide_name: str) -> dict[str, str]:
    """Read what the name of a slide says of its patches."""
    name = parse_slide_name(slide_name)
    return {"group": name.patient, "tumour_type": name.tumour_type}


def _notes(
    jobs_by_split: Mapping[str, Sequence[SlideJob]], sampling: Sampling, split_file: str | Path | None
) -> list[str]:
    """Say how the tables were made, of which slides, and what these show."""
    names, _ = CLASS_SETS[sampling.classes]
    values = ", ".join(f"{value} {name}" for value, name in enumerate(names))
    bare = f"0 ({names[0]})" if sampling.unannotated_is_background else "0 on glass and 255 (unknown) elsewhere"
    jobs = sorted((job for of_split in jobs_by_split.values() for job in of_split), key=lambda job: job.path.name)
    notes = [
        f"{sampling.patch_size}×{sampling.patch_size} px of {sampling.microns_per_pixel:g} µm",
        f"Mask: {values}; ground that nobody outlined is {bare}.",
        "Columns: image, mask (null on style sources), group (patient), slide (file name), tumour_type, x_microns, "
        "y_microns (left top corner of the patch from that of the slide, µm), microns_per_pixel.",
        note_outside(jobs),
        f"Split: {'random by patient, stratified by tumour type' if split_file is None else Path(split_file).name}",
        f"Settings: {', '.join(f'{key}={value}' for key, value in asdict(sampling).items())}",
    ]
    for split, of_split in jobs_by_split.items():
        for has_masks, words in ((True, "with masks"), (False, "without masks")):
            slides = [job.path.name for job in of_split if (job.polygons is not None) == has_masks]
            if slides:
                n_patches = sampling.n_patches_per_slide * len(slides)
                notes.append(f"{split}, {words}: {n_patches} patches of {len(slides)} slides: {', '.join(slides)}")
    return notes + [f"{job.path.name}: {job.facts}" for job in jobs]
