"""Many slides, one after the other: each is looked at before any is cut, so that faults come first and cost nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.cutting import sample_patches
from sedm.data.slides.polygons import Outside, Polygon, count_outside
from sedm.data.slides.resolution import AGREEMENT, UnknownResolutionError
from sedm.data.slides.sections import Tissue, find_tissue
from sedm.data.slides.slide import Slide
from sedm.data.slides.slide_settings import SlideSettings


@dataclass(frozen=True)
class SlideJob:
    """One slide to cut.

    Attributes:
        polygons: what was drawn on it; None where patches get no masks.
        columns: what every row of it says besides, such as ``group``.
        microns_per_pixel: of the finest level, where the file does not say.
        overrides: whether that counts even where the file says otherwise.
        tissue: where patches are drawn from it or masks need it.
        facts: what the slide is and shows.
        outside: how many of its polygons leave it, where they are used.
    """

    path: Path
    polygons: Sequence[Polygon] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    microns_per_pixel: float | None = None
    overrides: bool = False
    tissue: Tissue | None = None
    facts: str = ""
    outside: Outside | None = None

    def open(self) -> Slide:
        """Open the slide, at the resolution that its file states, or else at the one given."""
        if self.overrides:
            return Slide(self.path, self.microns_per_pixel)
        try:
            return Slide(self.path)
        except UnknownResolutionError:
            if self.microns_per_pixel is None:
                raise
            return Slide(self.path, self.microns_per_pixel)


def with_resolution(
    jobs: Sequence[SlideJob], microns_per_pixel: float | None, typical: str = "", overrides: bool = False
) -> list[SlideJob]:
    """Check that the resolution of each slide is known, by its file or else as given.

    Args:
        microns_per_pixel: of the finest level of slides whose files do not say.
        typical: what it usually is, for the error message.
        overrides: whether it counts for all slides, whatever their files say.

    Raises:
        UnknownResolutionError: of one slide, or how many.
        PatchTableError: a slide that cannot be opened.
    """
    jobs = [replace(job, microns_per_pixel=microns_per_pixel, overrides=overrides) for job in jobs]
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
            f"{len(unknown)} of {len(jobs)} slides do not say how large their pixels are ({first_names(unknown)}); "
            f"give microns_per_pixel of their finest level (--microns-per-pixel on the command line{typical})"
        )
    if differing:
        warnings.warn(
            f"microns_per_pixel={microns_per_pixel:g} is not used for {len(differing)} of {len(jobs)} slides, whose "
            f"files state another resolution ({first_names(differing)})",
            stacklevel=3,
        )
    return jobs


def with_outside(job: SlideJob) -> SlideJob:
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


def survey(jobs: Sequence[SlideJob], settings: SlideSettings, class_index: Mapping[str, int]) -> list[SlideJob]:
    """Look for the tissue of each slide where it is needed, and cut one patch, before any table is begun.

    Raises:
        PatchTableError: a slide without tissue, without room for a patch, or broken.
        ValueError: patches finer than a slide.
    """
    surveyed = []
    for job in tqdm(jobs, desc="survey", unit="slide"):
        with job.open() as slide:
            job = replace(job, facts=str(slide))
            if job.polygons is None or not settings.unannotated_is_background:
                tissue = find_tissue(slide, **settings.tissue_settings)
                job = replace(job, tissue=tissue, facts=f"{slide}; {tissue}")
            next(_patches(job, slide, settings, class_index, n=1))
        tqdm.write(f"{job.path.name}: {job.facts}", file=sys.stderr)
        surveyed.append(job)
    return surveyed


def cut(jobs: Sequence[SlideJob], settings: SlideSettings, class_index: Mapping[str, int], name: str) -> Iterator[dict]:
    """Cut one row after the other, so that never more than a few patches are in memory.

    Args:
        class_index: mask value of each class of the polygons.
        name: of the table, beside the bar that shows how far it is.

    Yields:
        Rows of :func:`sedm.data.slides.cutting.sample_patches`, with the columns of the job.
    """
    with tqdm(total=len(jobs) * settings.n_patches_per_slide, desc=name, unit="patch") as bar:
        for job in jobs:
            bar.set_postfix_str(job.path.name)
            with job.open() as slide:
                for row in _patches(job, slide, settings, class_index, settings.n_patches_per_slide):
                    yield {**row, **job.columns}
                    bar.update()


def _patches(
    job: SlideJob, slide: Slide, settings: SlideSettings, class_index: Mapping[str, int], n: int
) -> Iterator[dict]:
    """Cut the first ``n`` patches of a slide."""
    return sample_patches(
        slide,
        n,
        settings.patch_size,
        settings.microns_per_pixel,
        settings.seed,
        polygons=job.polygons,
        class_index=class_index,
        unannotated_is_background=settings.unannotated_is_background,
        tissue=job.tissue,
    )


def note_outside(jobs: Sequence[SlideJob]) -> str:
    """Say for a card how many polygons leave their slides."""
    outside = [
        f"{job.path.name} {job.outside.wholly} and {job.outside.partly}" for job in jobs if any(job.outside or ())
    ]
    return f"Polygons wholly and partly outside of their slide: {', '.join(outside) or 'none'}."


def first_names(names: Collection[str]) -> str:
    """Name the first three, and say whether there are more.

    >>> first_names(["a", "b", "c", "d"])
    'a, b, c, …'
    """
    return ", ".join(list(names)[:3]) + (", …" if len(names) > 3 else "")
