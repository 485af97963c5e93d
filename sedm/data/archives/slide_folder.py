"""Own slides: a folder of them, with what was drawn on them beside, becomes one balanced patch table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import datasets
from tqdm import tqdm

from sedm.data.archives.public_tables import PublicTables, spool
from sedm.data.folders.spreadsheets import read_spreadsheet
from sedm.data.groups import check_spelling, name_group
from sedm.data.patch_table import PatchTableError
from sedm.data.slides.annotations import SUFFIXES, read_polygons
from sedm.data.slides.polygons import Polygon
from sedm.data.slides.slide_classes import SlideClasses
from sedm.data.slides.slide_files import find_slides
from sedm.data.slides.slide_jobs import SlideJob, cut, note_outside, survey, with_outside, with_resolution
from sedm.data.slides.slide_settings import SlideSettings

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "group": datasets.Value("string"),
        "slide": datasets.Value("string"),
        "x_microns": datasets.Value("float64"),
        "y_microns": datasets.Value("float64"),
        "microns_per_pixel": datasets.Value("float64"),
    }
)
TABLE = "patches"  # its name, and that of its file
ABOUT = "# Patches of slides\n\nCut by sedm from {n_slides} slides of {n_groups} groups."


def make_slides(
    slide_folder: str | Path,
    cache_folder: str | Path,
    settings: SlideSettings | None = None,
    classes: SlideClasses | None = None,
    annotations: str | Path | None = None,
    group_pattern: str | None = None,
    group_file: str | Path | None = None,
    microns_per_pixel: float | None = None,
    overrides: bool = False,
    reading: Mapping[str, str | bool | None] | None = None,
) -> PublicTables:
    """Make the patch table of a folder of slides.

    Every slide gives as many patches. On an annotated one each class present is drawn with equal chance; one without
    annotation is sampled anywhere on its tissue, and its patches have no masks. Columns: ``image``, ``mask``,
    ``group``, ``slide`` (file name), ``x_microns`` and ``y_microns`` (left top corner of the patch, from that of the
    slide), ``microns_per_pixel``.

    Args:
        slide_folder: the slides, also in sub-folders; of a slide ``a.svs``, the annotations are in ``a.geojson``,
            ``a.xml``, ``a.svs.xml`` … beside it.
        cache_folder: where patches lie on disk while the table is in use.
        classes: of the masks; without them, all classes of the annotations in alphabetical order, after a background.
        annotations: another folder of annotation files, or one file of all slides (SlideRunner, COCO).
        group_pattern: a regular expression looked for in the path of each slide below the folder; what its first
            parentheses hold, or else all that it matches, is the group. Without it, each slide is a group.
        group_file: a table with the columns ``slide`` and ``group`` in place of a pattern.
        microns_per_pixel: of the finest level of slides whose files do not say.
        overrides: it counts for all slides, whatever their files say.
        reading: further arguments of :func:`sedm.data.slides.annotations.read_polygons`.

    Raises:
        PatchTableError: the first fault, before any slide is cut: no slides, groups that are not known, annotations
            that cannot be read, of an unknown class, or beside their slide; slides without resolution, tissue or room.
        ValueError: a pattern that is none, or patches finer than a slide.
    """
    settings = settings or SlideSettings()
    folder = Path(slide_folder)
    paths = find_slides(folder)
    groups = _groups(folder, paths, group_pattern, group_file)
    files = _pair(paths, None if annotations is None else Path(annotations))
    jobs = [SlideJob(path, columns={"group": group}) for path, group in zip(paths, groups, strict=True)]
    jobs = with_resolution(jobs, microns_per_pixel, overrides=overrides)
    drawn = _read_annotations(jobs, files, dict(reading or {}))
    if classes is not None and not drawn:
        raise PatchTableError(
            f"{annotations or folder}: no annotations of any slide; expected files such as "
            f"{paths[0].stem}.geojson, or no classes"
        )
    if classes is None:
        found = sorted({polygon.class_name for polygons in drawn.values() for polygon in polygons})
        classes = SlideClasses(("background", *found)) if found else None
    if classes is not None:
        polygons = {path: _choose(of_slide, classes, files[path]) for path, of_slide in drawn.items()}
        jobs = [replace(job, polygons=polygons.get(job.path)) for job in jobs]
    index = {} if classes is None else classes.index
    jobs = survey([with_outside(job) for job in jobs], settings, index)
    table = spool(cut(jobs, settings, index, TABLE), FEATURES, Path(cache_folder) / f"{TABLE}.arrow")
    return PublicTables(
        tables={TABLE: table},
        about=ABOUT.format(n_slides=len(jobs), n_groups=len(set(groups))),
        notes=_notes(jobs, settings, classes),
        sources=sorted(set(files.values())),
    )


def _groups(folder: Path, paths: Sequence[Path], pattern: str | None, file: str | Path | None) -> list[str]:
    """Find the group of each slide."""
    names = [path.relative_to(folder).as_posix() for path in paths]
    if file is not None:
        groups = _read_groups(Path(file), names)
    elif pattern is not None:
        groups = _match_groups(pattern, names)
    else:
        groups = [str(Path(name).with_suffix("")) for name in names]
    check_spelling(groups, str(file or folder))
    rows = Counter(zip(groups, (path.name for path in paths), strict=True))
    (group, name), n = rows.most_common(1)[0]
    if n > 1:
        raise PatchTableError(f"{folder}: {n} slides of group {group!r} are named {name}; rename all but one")
    return groups


def _match_groups(pattern: str, names: Iterable[str]) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group_pattern={pattern!r} is no regular expression ({error})") from error
    groups = []
    for name in names:
        match = expression.search(name)
        group = match and (match[1] if expression.groups else match[0])
        if not group:
            raise PatchTableError(f"{name}: no group found in its name by {pattern!r}; give another pattern or a table")
        groups.append(group)
    return groups


def _read_groups(file: Path, names: Sequence[str]) -> list[str]:
    """Read the groups of slides from a table that names them by file, by path below the folder, or without ending."""
    groups: dict[str, str] = {}
    for line, row in read_spreadsheet(file, columns=("slide", "group")).items():
        group = name_group(row["group"], f"{file}, line {line}, column 'group'")
        if groups.setdefault(row["slide"], group) != group:
            raise PatchTableError(f"{file}, line {line}: slide {row['slide']!r} has two groups; give it one")
    found = []
    for name in names:
        path = Path(name)
        keys = [key for key in (name, path.name, path.stem) if key in groups]
        if not keys:
            raise PatchTableError(f"{file}: no group for the slide {name}; add a line for it")
        found.append(groups[keys[0]])
    return found


def _pair(paths: Sequence[Path], annotations: Path | None) -> dict[Path, Path]:
    """Find the annotation file of each slide that has one."""
    if annotations is not None and annotations.is_file():
        return dict.fromkeys(paths, annotations)
    if annotations is not None and not annotations.is_dir():
        raise PatchTableError(f"{annotations}: no such file or folder of annotations")
    files = {}
    for path in paths:
        stems = (path.stem, path.name)
        beside = [
            file
            for file in sorted((annotations or path.parent).iterdir())
            if file.suffix.lower() in SUFFIXES and file.stem in stems and file != path
        ]
        if len(beside) > 1:
            names = " and ".join(file.name for file in beside[:2])
            raise PatchTableError(f"{path}: two annotation files, {names}; take one away")
        if beside:
            files[path] = beside[0]
    return files


def _read_annotations(
    jobs: Sequence[SlideJob], files: Mapping[Path, Path], reading: Mapping[str, str | bool | None]
) -> dict[Path, list[Polygon]]:
    """Read what was drawn on each slide that has an annotation file; a file of all slides only once."""
    drawn: dict[Path, list[Polygon]] = {}
    shared = len(set(files.values())) == 1 < len(files)
    of_all = read_polygons(next(iter(files.values())), **reading) if shared else {}
    for job in tqdm([job for job in jobs if job.path in files], desc="annotations", unit="slide"):
        path, file = job.path, files[job.path]
        polygons_by_name = of_all
        if not shared:
            with job.open() as slide:
                polygons_by_name = read_polygons(file, slide=slide, **reading)
        names = [name for name in (path.name, path.stem) if name in polygons_by_name]
        if names:
            drawn[path] = polygons_by_name[names[0]]
        elif not shared:
            listed = ", ".join(list(polygons_by_name)[:3]) or "none"
            raise PatchTableError(f"{file}: no image named {path.name} or {path.stem} in it; it has {listed}")
    if shared and not drawn:
        raise PatchTableError(f"{next(iter(files.values()))}: none of its images has the name of a slide")
    return {path: polygons for path, polygons in drawn.items() if polygons or not shared}


def _choose(polygons: Sequence[Polygon], classes: SlideClasses, file: Path) -> list[Polygon]:
    """Leave the ignored polygons of a slide out, and lay those on top that are to lie there."""
    chosen = [polygon for polygon in polygons if polygon.class_name not in classes.ignored]
    for polygon in chosen:
        if polygon.class_name not in classes.index:
            raise PatchTableError(
                f"{file}: class {polygon.class_name!r} is none of {', '.join(classes.index)}; add it to a class "
                f"(name={polygon.class_name}) or ignore it (--ignore)"
            )
    if not chosen:
        raise PatchTableError(
            f"{file}: no polygon of a class in it; take it away where the slide is not annotated, or say what polygons "
            "without a class show (--unclassified)"
        )
    order = {name: place for place, name in enumerate(classes.on_top, start=1)}
    return sorted(chosen, key=lambda polygon: order.get(polygon.class_name, 0))


def _notes(jobs: Sequence[SlideJob], settings: SlideSettings, classes: SlideClasses | None) -> list[str]:
    """Say how the table was made, of which slides, and what these show."""
    notes = [f"{settings.patch_size}×{settings.patch_size} px of {settings.microns_per_pixel:g} µm"]
    if classes is not None:
        values = [
            f"{value} {name}" + (f" ({', '.join(classes.members[name])})" if classes.members.get(name) else "")
            for value, name in enumerate(classes.names)
        ]
        bare = f"0 ({classes.names[0]})" if settings.unannotated_is_background else "0 on glass and 255 elsewhere"
        notes.append(f"Mask: {', '.join(values)}; ground that nobody outlined is {bare}.")
        notes.append(f"Where classes overlap: as drawn; on top, in this order: {', '.join(classes.on_top) or 'none'}.")
        notes.append(f"Annotations ignored: {', '.join(classes.ignored) or 'none'}.")
    n_annotated = sum(job.polygons is not None for job in jobs)
    notes += [
        "Columns: image, mask (null on slides without annotation), group, slide (file name), x_microns, y_microns "
        "(left top corner of the patch from that of the slide, µm), microns_per_pixel.",
        f"{n_annotated} of {len(jobs)} slides are annotated.",
        note_outside(jobs),
        f"Settings: {', '.join(f'{key}={value}' for key, value in asdict(settings).items())}",
    ]
    return notes + [f"{job.path.name}: {job.facts}" for job in jobs]
