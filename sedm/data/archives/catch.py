"""CATCH: 350 slides of seven canine skin tumours with polygons of thirteen tissues, turned into patch tables.

Wilm et al., Pan-tumor CAnine cuTaneous Cancer Histology (CATCH) dataset, Scientific Data 9, 588 (2022).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
from tqdm import tqdm

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
from sedm.data.slides.cutting import sample_patches
from sedm.data.slides.polygons import Outside, Polygon, count_outside
from sedm.data.slides.resolution import AGREEMENT, UnknownResolutionError
from sedm.data.slides.sections import Tissue, find_tissue
from sedm.data.slides.slide import Slide

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
    jobs = _plan(Path(slide_folder), annotation_file, sampling, split_file, allow_missing)
    jobs = _with_resolution(jobs, microns_per_pixel)
    jobs = _survey([_count_outside(job) for job in jobs], sampling)
    tables = {}
    for split in SPLITS:
        rows = _rows([job for job in jobs if job.split == split], sampling)
        tables[split] = spool(rows, FEATURES, Path(cache_folder) / f"{split}.arrow")
    return PublicTables(
        tables=tables,
        about=ABOUT,
        notes=_notes(jobs, sampling, split_file),
        sources=[annotation_file],
    )


@dataclass(frozen=True)
class _Job:
    """One slide to cut."""

    path: Path
    split: str
    polygons: Sequence[Polygon] | None = None  # None where patches get no masks
    microns_per_pixel: float | None = None  # of the finest level, where the file does not say
    tissue: Tissue | None = None  # where patches are drawn from it or masks need it
    facts: str = ""  # what the slide is and shows
    outside: Outside | None = None  # of its polygons, where they are used

    def open(self) -> Slide:
        """Open the slide, at the resolution that its file states, or else at the one given."""
        try:
            return Slide(self.path)
        except UnknownResolutionError:
            if self.microns_per_pixel is None:
                raise
            return Slide(self.path, self.microns_per_pixel)


def _plan(
    slide_folder: Path,
    annotation_file: Path,
    sampling: Sampling,
    split_file: str | Path | None,
    allow_missing: bool,
) -> list[_Job]:
    """Decide which slides to cut, with or without masks; open none."""
    if not slide_folder.is_dir():
        raise PatchTableError(f"{slide_folder}: no such folder; expected the slides of CATCH")
    splits = None if split_file is None else read_split_file(split_file)
    polygons = read_polygons(annotation_file)
    expected = set(polygons if splits is None else splits)
    paths = {path.name: path for path in sorted(slide_folder.rglob("*")) if path.name in expected}
    missing = sorted(expected - paths.keys())
    if missing:
        sentence = f"{slide_folder}: {len(missing)} of {len(expected)} slides are missing ({_first(missing)})"
        if not allow_missing or not paths:
            raise PatchTableError(f"{sentence}; get them from {SOURCE}, or go on without them by allow_missing=True")
        warnings.warn(sentence, stacklevel=3)
    slides = sorted(paths)
    _, class_index = CLASS_SETS[sampling.classes]
    for name, drawn in polygons.items():
        strange = {polygon.class_name for polygon in drawn} - class_index.keys()
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
    return [_Job(paths[name], splits[name], polygons[name] if name in masks else None) for name in slides]


def _count_outside(job: _Job) -> _Job:
    """Count the polygons that leave their slide, and warn of them.

    Raises:
        PatchTableError: no polygon reaches the slide.
    """
    if job.polygons is None:
        return job
    with job.open() as slide:
        outside = count_outside(job.polygons, slide.size)
    n_polygons = len(job.polygons)
    place = f"outside of the slide of {slide.size[0]}×{slide.size[1]} px"
    if outside.wholly == n_polygons:
        raise PatchTableError(
            f"{job.path}: all of its {n_polygons} polygons lie {place}; were they drawn on another slide, or at "
            "another resolution?"
        )
    if any(outside):
        sentence = (
            f"{job.path}: {outside.wholly} of {n_polygons} polygons lie wholly and {outside.partly} partly {place}"
        )
        warnings.warn(sentence, stacklevel=4)
    return replace(job, outside=outside)


def _survey(jobs: Sequence[_Job], sampling: Sampling) -> list[_Job]:
    """Look for the tissue of each slide where it is needed, and cut one patch, before any table is begun."""
    surveyed = []
    for job in tqdm(jobs, desc="survey", unit="slide"):
        with job.open() as slide:
            job = replace(job, facts=str(slide))
            if job.polygons is None or not sampling.unannotated_is_background:
                tissue = find_tissue(slide, **sampling.tissue_settings)
                job = replace(job, tissue=tissue, facts=f"{slide}; {tissue}")
            next(_patches(job, slide, sampling, n=1))
        tqdm.write(f"{job.path.name}: {job.facts}", file=sys.stderr)
        surveyed.append(job)
    return surveyed


def _with_resolution(plan: Sequence[_Job], microns_per_pixel: float | None) -> list[_Job]:
    """Check that the resolution of each slide is known, by its file or else as given."""
    jobs = [replace(job, microns_per_pixel=microns_per_pixel) for job in plan]
    unknown: dict[str, UnknownResolutionError] = {}
    differing: list[str] = []
    for job in tqdm(jobs, desc="resolution", unit="slide"):
        try:
            with job.open() as slide:
                stated = slide.microns_per_pixel
        except UnknownResolutionError as error:
            unknown[job.path.name] = error
        else:
            if microns_per_pixel and not 1 / AGREEMENT < stated / microns_per_pixel < AGREEMENT:
                differing.append(f"{job.path.name} {stated:g}")
    if len(unknown) == 1:
        raise next(iter(unknown.values()))
    if unknown:
        raise UnknownResolutionError(
            f"{len(unknown)} of {len(jobs)} slides do not say how large their pixels are ({_first(unknown)}); give "
            "microns_per_pixel of their finest level (--microns-per-pixel on the command line; CATCH's is "
            f"{MICRONS_PER_PIXEL:g})"
        )
    if differing:
        warnings.warn(
            f"microns_per_pixel={microns_per_pixel:g} is not used for {len(differing)} of {len(jobs)} slides, whose "
            f"files state another resolution ({_first(differing)})",
            stacklevel=3,
        )
    return jobs


def _first(names: Collection[str]) -> str:
    """Name the first three, and say whether there are more."""
    return ", ".join(list(names)[:3]) + (", …" if len(names) > 3 else "")


def _rows(jobs: Sequence[_Job], sampling: Sampling) -> Iterator[dict]:
    """Cut one row after the other, so that never more than a few patches are in memory."""
    with tqdm(total=len(jobs) * sampling.n_patches_per_slide, desc=jobs[0].split, unit="patch") as bar:
        for job in jobs:
            bar.set_postfix_str(job.path.name)
            name = parse_slide_name(job.path.name)
            with job.open() as slide:
                for row in _patches(job, slide, sampling, sampling.n_patches_per_slide):
                    yield {**row, "group": name.patient, "tumour_type": name.tumour_type}
                    bar.update()


def _patches(job: _Job, slide: Slide, sampling: Sampling, n: int) -> Iterator[dict]:
    """Cut the first ``n`` patches of a slide."""
    _, class_index = CLASS_SETS[sampling.classes]
    return sample_patches(
        slide,
        n,
        sampling.patch_size,
        sampling.microns_per_pixel,
        sampling.seed,
        polygons=job.polygons,
        class_index=class_index,
        unannotated_is_background=sampling.unannotated_is_background,
        tissue=job.tissue,
    )


def _notes(jobs: Sequence[_Job], sampling: Sampling, split_file: str | Path | None) -> list[str]:
    """Say how the tables were made, of which slides, and what these show."""
    names, _ = CLASS_SETS[sampling.classes]
    values = ", ".join(f"{value} {name}" for value, name in enumerate(names))
    bare = f"0 ({names[0]})" if sampling.unannotated_is_background else "0 on glass and 255 (unknown) elsewhere"
    outside = [
        f"{job.path.name} {job.outside.wholly} and {job.outside.partly}" for job in jobs if any(job.outside or ())
    ]
    notes = [
        f"{sampling.patch_size}×{sampling.patch_size} px of {sampling.microns_per_pixel:g} µm",
        f"Mask: {values}; ground that nobody outlined is {bare}.",
        "Columns: image, mask (null on style sources), group (patient), slide (file name), tumour_type, x_microns, "
        "y_microns (left top corner of the patch from that of the slide, µm), microns_per_pixel.",
        f"Polygons wholly and partly outside of their slide: {', '.join(outside) or 'none'}.",
        f"Split: {'random by patient, stratified by tumour type' if split_file is None else Path(split_file).name}",
        f"Settings: {', '.join(f'{key}={value}' for key, value in asdict(sampling).items())}",
    ]
    for split in SPLITS:
        for has_masks, words in ((True, "with masks"), (False, "without masks")):
            slides = [job.path.name for job in jobs if job.split == split and (job.polygons is not None) == has_masks]
            if slides:
                n_patches = sampling.n_patches_per_slide * len(slides)
                notes.append(f"{split}, {words}: {n_patches} patches of {len(slides)} slides: {', '.join(slides)}")
    return notes + [f"{job.path.name}: {job.facts}" for job in jobs]
