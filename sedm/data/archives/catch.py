"""CATCH: 350 slides of seven canine skin tumours with polygons of thirteen tissues, turned into patch tables.

Wilm et al., Pan-tumor CAnine cuTaneous Cancer Histology (CATCH) dataset, Scientific Data 9, 588 (2022).
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
from tqdm import tqdm

from sedm.data.archives.catch_slides import (
    CITATION,
    CLASS_SETS,
    LICENCE,
    MICRONS_PER_PIXEL,
    SOURCE,
    SPLITS,
    Sampling,
    choose_annotated,
    parse_slide_name,
    read_split_file,
    split_slides,
)
from sedm.data.patch_table import PatchTableError, save_patches
from sedm.data.slides.annotations import read_polygons
from sedm.data.slides.cutting import sample_patches
from sedm.data.slides.polygons import Outside, Polygon, count_outside
from sedm.data.slides.resolution import AGREEMENT, UnknownResolutionError
from sedm.data.slides.sections import Tissue, find_tissue
from sedm.data.slides.slide import Slide
from sedm.runtime.files import replacing

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
) -> dict[str, datasets.Dataset]:
    """Patch tables of CATCH by split: ``train``, ``validation``, ``test``.

    Every slide gives ``n_patches_per_slide`` patches. Those of validation, test and the chosen training slides have
    masks; the other training slides are sampled anywhere on their tissue, lend their style, and need no annotation.
    Columns: ``image``, ``mask``, ``group`` (patient), ``slide`` (file name), ``tumour_type``, ``x_microns`` and
    ``y_microns`` (left top corner of the patch, from that of the slide), ``microns_per_pixel``.

    Args:
        slide_folder: the slides, also in sub-folders.
        annotation_file: ``CATCH.sqlite`` or ``CATCH.json``.
        cache_folder: where patches wait on disk; the tables are gone when it is removed.
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
    plan, polygons = _plan(Path(slide_folder), annotation_file, sampling, split_file, allow_missing)
    plan = _survey(plan, polygons, sampling, microns_per_pixel)
    return _cut(plan, polygons, sampling, cache_folder)


def prepare(
    slide_folder: str | Path,
    annotation_file: str | Path,
    out_folder: str | Path,
    sampling: Sampling | None = None,
    split_file: str | Path | None = None,
    allow_missing: bool = False,
    microns_per_pixel: float | None = None,
) -> dict[str, Path]:
    """The parquet files by split that now hold :func:`make_catch`'s tables, beside a data card ``README.md``.

    Raises:
        PatchTableError: see :func:`make_catch`; then nothing is written.
    """
    sampling, out_folder = sampling or Sampling(), Path(out_folder)
    plan, polygons = _plan(Path(slide_folder), annotation_file, sampling, split_file, allow_missing)
    out_folder.mkdir(parents=True, exist_ok=True)
    plan = _survey(plan, polygons, sampling, microns_per_pixel)
    with tempfile.TemporaryDirectory(dir=out_folder, prefix=".cache") as cache_folder:
        tables = _cut(plan, polygons, sampling, cache_folder)
        with _quiet():
            paths = {split: save_patches(table, out_folder / f"{split}.parquet") for split, table in tables.items()}
    with replacing(out_folder / "README.md") as temporary:
        temporary.write_text(_data_card(plan, sampling, Path(annotation_file), split_file), encoding="utf-8")
    return paths


@dataclass(frozen=True)
class _Job:
    """One slide to cut."""

    path: Path
    split: str
    annotated: bool
    microns_per_pixel: float | None = None  # of the finest level, where the file does not say
    tissue: Tissue | None = None  # where patches are drawn from it or masks need it
    facts: str = ""  # what the slide is and shows
    outside: Outside | None = None  # of its polygons, where they are used

    def open(self) -> Slide:
        """The slide, at the resolution that its file states, or else at the one given."""
        try:
            return Slide(self.path)
        except UnknownResolutionError:
            if self.microns_per_pixel is None:
                raise
            return Slide(self.path, self.microns_per_pixel)


def _plan(
    slide_folder: Path,
    annotation_file: str | Path,
    sampling: Sampling,
    split_file: str | Path | None,
    allow_missing: bool,
) -> tuple[list[_Job], dict[str, list[Polygon]]]:
    """What to cut, and the polygons of the annotated slides; opens no slide."""
    if not slide_folder.is_dir():
        raise PatchTableError(f"{slide_folder}: no such folder; expected the slides of CATCH")
    splits = None if split_file is None else read_split_file(split_file)
    polygons = read_polygons(annotation_file)
    expected = set(polygons if splits is None else splits)
    found = {path.name: path for path in sorted(slide_folder.rglob("*")) if path.name in expected}
    missing = sorted(expected - found.keys())
    if missing:
        sentence = f"{slide_folder}: {len(missing)} of {len(expected)} slides are missing ({_first(missing)})"
        if not allow_missing or not found:
            raise PatchTableError(f"{sentence}; get them from {SOURCE}, or go on without them by allow_missing=True")
        warnings.warn(sentence, stacklevel=3)
    slides = sorted(found)
    _, class_index = CLASS_SETS[sampling.classes]
    for name, drawn in polygons.items():
        strange = {polygon.class_name for polygon in drawn} - class_index.keys()
        if name in found and strange:
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
    plan = [_Job(found[name], splits[name], name in masks) for name in slides]
    return plan, {name: polygons[name] for name in masks}


def _tell_outside(plan: Sequence[_Job], polygons: Mapping[str, list[Polygon]]) -> list[_Job]:
    """Count the polygons that leave their slide, and warn of each such slide.

    Raises:
        PatchTableError: a slide that no polygon reaches, or a broken one.
    """
    counted = []
    for job in plan:
        outside = _count_outside(job, polygons[job.path.name]) if job.annotated else None
        counted.append(replace(job, outside=outside))
    return counted


def _count_outside(job: _Job, polygons: Sequence[Polygon]) -> Outside:
    path = job.path
    with job.open() as slide:
        size = slide.size
    outside = count_outside(polygons, size)
    place = f"outside of the slide of {size[0]}×{size[1]} px"
    if outside.wholly == len(polygons):
        raise PatchTableError(
            f"{path}: all of its {len(polygons)} polygons lie {place}; were they drawn on another slide, or at another "
            "resolution?"
        )
    if any(outside):
        message = f"{path}: {outside.wholly} of {len(polygons)} polygons lie wholly and {outside.partly} partly {place}"
        warnings.warn(message, stacklevel=5)
    return outside


def _survey(
    plan: Sequence[_Job],
    polygons: Mapping[str, list[Polygon]],
    sampling: Sampling,
    microns_per_pixel: float | None,
) -> list[_Job]:
    """Look at every slide before any is cut: its resolution, which polygons leave it, its tissue where that is needed,
    and one patch.
    """
    jobs = _tell_outside(_with_resolution(plan, microns_per_pixel), polygons)
    for row, job in enumerate(tqdm(jobs, desc="survey", unit="slide")):
        with job.open() as slide:
            facts = str(slide)
            tissue = None
            if not (job.annotated and sampling.unannotated_is_background):
                tissue = find_tissue(slide, **sampling.tissue_settings)
                facts += f"; {tissue}"
            jobs[row] = replace(job, tissue=tissue, facts=facts)
            next(_patches(jobs[row], slide, polygons, sampling, n=1))
        tqdm.write(f"{job.path.name}: {facts}", file=sys.stderr)
    return jobs


def _with_resolution(plan: Sequence[_Job], microns_per_pixel: float | None) -> list[_Job]:
    """The jobs, with the resolution of slides that state none; open each slide for it."""
    jobs = [replace(job, microns_per_pixel=microns_per_pixel) for job in plan]
    unknown, differing = {}, {}
    for job in tqdm(jobs, desc="resolution", unit="slide"):
        try:
            with job.open() as slide:
                stated = slide.microns_per_pixel
        except UnknownResolutionError as error:
            unknown[job.path.name] = error
        else:
            if microns_per_pixel and not 1 / AGREEMENT < stated / microns_per_pixel < AGREEMENT:
                differing[job.path.name] = f"{job.path.name} {stated:g}"
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
            f"files state another resolution ({_first(differing.values())})",
            stacklevel=4,
        )
    return jobs


def _first(names: Collection[str]) -> str:
    """The first three, and whether there are more."""
    return ", ".join(list(names)[:3]) + (", …" if len(names) > 3 else "")


def _cut(
    plan: Sequence[_Job], polygons: Mapping[str, list[Polygon]], sampling: Sampling, cache_folder: str | Path
) -> dict[str, datasets.Dataset]:
    tables = {}
    for split in SPLITS:
        arguments = {
            "jobs": tuple(job for job in plan if job.split == split),
            "polygons": polygons,
            "sampling": sampling,
        }
        try:
            with _quiet():
                tables[split] = datasets.Dataset.from_generator(
                    _rows, features=FEATURES, cache_dir=str(cache_folder), gen_kwargs=arguments
                )
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, PatchTableError):
                raise error.__cause__ from None
            raise
    return tables


def _rows(jobs: Sequence[_Job], polygons: Mapping[str, list[Polygon]], sampling: Sampling) -> Iterator[dict]:
    """One row after the other, so that never more than a few patches are in memory."""
    with tqdm(total=len(jobs) * sampling.n_patches_per_slide, desc=jobs[0].split, unit="patch") as bar:
        for job in jobs:
            bar.set_postfix_str(job.path.name)
            name = parse_slide_name(job.path.name)
            with job.open() as slide:
                for row in _patches(job, slide, polygons, sampling, sampling.n_patches_per_slide):
                    yield {**row, "group": name.patient, "tumour_type": name.tumour_type}
                    bar.update()


def _patches(
    job: _Job, slide: Slide, polygons: Mapping[str, list[Polygon]], sampling: Sampling, n: int
) -> Iterator[dict]:
    """The first ``n`` patches of a slide."""
    _, class_index = CLASS_SETS[sampling.classes]
    return sample_patches(
        slide,
        n,
        sampling.patch_size,
        sampling.microns_per_pixel,
        sampling.seed,
        polygons[job.path.name] if job.annotated else None,
        class_index,
        sampling.unannotated_is_background,
        job.tissue,
    )


def _data_card(plan: Sequence[_Job], sampling: Sampling, annotation_file: Path, split_file: str | Path | None) -> str:
    names, _ = CLASS_SETS[sampling.classes]
    with annotation_file.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    outside = [
        f"{job.path.name} {job.outside.wholly} and {job.outside.partly}" for job in plan if any(job.outside or ())
    ]
    lines = [
        "# CATCH patches",
        "",
        f"Patches of canine skin tumour slides, H&E, {sampling.patch_size}×{sampling.patch_size} px of "
        f"{sampling.microns_per_pixel:g} µm, cut by sedm from the CATCH data set.",
        "",
        f"- Citation: {CITATION}",
        f"- Source: {SOURCE}",
        f"- Licence: {LICENCE}.",
        f"- Annotations: {annotation_file.name}, SHA-256 {checksum}",
        f"- Polygons wholly and partly outside of their slide: {', '.join(outside) or 'none'}.",
        f"- Split: {'random by patient, stratified by tumour type' if split_file is None else Path(split_file).name}",
        f"- Mask: {', '.join(f'{value} {name}' for value, name in enumerate(names))}; ground that nobody outlined is "
        + (f"0 ({names[0]})." if sampling.unannotated_is_background else "0 on glass and 255 (unknown) elsewhere."),
        "- Columns: image, mask (null on style sources), group (patient), slide (file name), tumour_type, x_microns, "
        "y_microns (left top corner of the patch from that of the slide, µm), microns_per_pixel.",
        f"- Settings: {', '.join(f'{key}={value}' for key, value in asdict(sampling).items())}",
        "",
        "| split | patches | with mask | slides | with mask | patients |",
        "|---|---|---|---|---|---|",
    ]
    for split in SPLITS:
        jobs = [job for job in plan if job.split == split]
        n_annotated, n = sum(job.annotated for job in jobs), sampling.n_patches_per_slide
        patients = {parse_slide_name(job.path.name).patient for job in jobs}
        lines.append(
            f"| {split} | {n * len(jobs)} | {n * n_annotated} | {len(jobs)} | {n_annotated} | {len(patients)} |"
        )
    for split in SPLITS:
        jobs = [job for job in plan if job.split == split]
        for annotated, title in ((True, "with masks"), (False, "without")):
            slides = [job.path.name for job in jobs if job.annotated == annotated]
            if slides:
                lines += ["", f"Slides for {split}, {title}: {', '.join(slides)}."]
    lines += ["", "What the slides are and, where it was looked for, show:", ""]
    lines += [f"- {job.path.name}: {job.facts}" for job in plan]
    return "\n".join(lines) + "\n"


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of ``datasets``: ours counts the same patches."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
