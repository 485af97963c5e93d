"""``sedm data``: patch tables of public data sets, and of own slides.

``sedm data flowers102 downloads tables --download`` fetches the archives that are missing in ``downloads``
and writes the tables, with a card that says whose data they are, to ``tables``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sedm.commands.words import SentenceParser, new_folder
from sedm.data.slides.slide_settings import SlideSettings

if TYPE_CHECKING:
    from sedm.data.archives.public_tables import PublicTables

OUT = "the folder for train.parquet, validation.parquet and test.parquet"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables of a source, with a card that says whose data they are.

    Raises:
        ValueError, OSError: what is missing or wrong, in one sentence.

    >>> main(["ebhi", "no/such/folder", "out"])
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: no/such/folder: no such file or folder
    """
    parser = SentenceParser(
        "sedm data",
        description="Make patch tables of public data, or of your own slides.",
        epilog="example: sedm data slides my_slides tables    (sedm data SOURCE --help says more)",
    )
    sources = parser.add_subparsers(dest="name", required=True, metavar="SOURCE", parser_class=SentenceParser)
    for add in (_add_slides, _add_flowers102, _add_ebhi, _add_catch):
        add(sources)
    options = parser.parse_args(arguments)
    cache_folder = options.out / ".cache"  # where there must be room anyway
    try:
        options.make(options, cache_folder).save(options.out)
    finally:
        shutil.rmtree(cache_folder, ignore_errors=True)


def _add(
    sources: argparse._SubParsersAction,
    name: str,
    purpose: str,
    source: str,
    make: Callable[[argparse.Namespace, Path], PublicTables],
    example: str,
    out: str = OUT,
) -> argparse.ArgumentParser:
    """Add a source: the command, the two arguments that all have, and the function that makes its tables."""
    parser = sources.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help=source)
    parser.add_argument("out", type=new_folder, help=out)
    parser.set_defaults(make=make)
    return parser


def _add_flowers102(sources: argparse._SubParsersAction) -> None:
    parser = _add(
        sources,
        "flowers102",
        "make the tables of Oxford 102 flowers",
        "the folder of the archives",
        _make_flowers102,
        "sedm data flowers102 downloads data/flowers102 --download",
    )
    parser.add_argument("--download", action="store_true", help="fetch what is missing into the source folder first")
    parser.add_argument("--seen", type=int, nargs="+", help="numbers of the seen species, for our own draw")
    parser.add_argument("--image-size", type=int, default=128, help="px a side")
    parser.add_argument("--seed", type=int, default=0, help="of the splits")


def _make_flowers102(options: argparse.Namespace, cache_folder: Path) -> PublicTables:
    from sedm.data.archives import flowers102
    from sedm.data.archives.download import fetch

    if options.download:
        fetch(flowers102.FILES, options.source)
    return flowers102.make_flowers102(
        options.source,
        cache_folder,
        image_size=options.image_size,
        seed=options.seed,
        seen_species=options.seen,
    )


def _add_ebhi(sources: argparse._SubParsersAction) -> None:
    parser = _add(
        sources,
        "ebhi",
        "make the tables of the biopsies EBHI-SEG",
        "the unpacked folder or its zip; with --download, a folder to fetch it into",
        _make_ebhi,
        "sedm data ebhi EBHI-SEG data/ebhi",
    )
    parser.add_argument("--download", action="store_true", help="fetch what is missing into the source folder first")
    parser.add_argument("--image-size", type=int, default=128, help="px a side")
    parser.add_argument("--seed", type=int, help="of the splits; cases of the committed results when left out")


def _make_ebhi(options: argparse.Namespace, cache_folder: Path) -> PublicTables:
    from sedm.data.archives import ebhi
    from sedm.data.archives.download import fetch, figshare_files

    if options.download:
        fetch(figshare_files(ebhi.ARTICLE), options.source)
    cases = ebhi.COMMITTED_CASES if options.seed is None else None
    return ebhi.make_ebhi(options.source, image_size=options.image_size, seed=options.seed or 0, cases=cases)


def _add_catch(sources: argparse._SubParsersAction) -> None:
    parser = _add(
        sources,
        "catch",
        "make the tables of the canine skin tumours CATCH",
        "the folder of the slides, which come from The Cancer Imaging Archive by its own tool",
        _make_catch,
        "sedm data catch slides data/catch --annotations CATCH.json",
    )
    parser.add_argument("--annotations", type=Path, required=True, help="CATCH.json or CATCH.sqlite")
    parser.add_argument("--splits", type=Path, help="a table with the columns Slide and Dataset")
    _add_resolution(parser)
    _add_tissue(parser)


def _make_catch(options: argparse.Namespace, cache_folder: Path) -> PublicTables:
    from sedm.data.archives import catch
    from sedm.data.archives.catch_slides import Sampling

    return catch.make_catch(
        options.source,
        options.annotations,
        cache_folder,
        sampling=Sampling(**_tissue_settings(options)),
        split_file=options.splits,
        microns_per_pixel=options.microns_per_pixel,
    )


def _add_slides(sources: argparse._SubParsersAction) -> None:
    parser = _add(
        sources,
        "slides",
        "cut a balanced patch table from your own slides, with what was drawn on them",
        "the folder of the slides; annotations lie beside them (a.svs and a.geojson, a.xml, a.svs.xml, …), as QuPath, "
        "ASAP, ImageScope, HALO, NDP.view, SlideRunner or COCO writes them; slides without any get no masks",
        _make_slides,
        "sedm data slides slides data/mine --classes other tumour=Tumor,metastasis \\\n"
        "      --group-pattern '^([^_]+)_' --patch-microns-per-pixel 2 --patch-size 256 --patches-per-slide 64",
        out="the folder for patches.parquet and its card, written when all slides are cut: what is stopped starts anew",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME[=A,B]",
        help="of the masks from value 0, which is ground that nobody outlined, each with what annotations call it; all "
        "that are found, in alphabetical order, when left out",
    )
    parser.add_argument("--ignore", nargs="+", default=[], metavar="CLASS", help="annotations to pass over")
    parser.add_argument(
        "--on-top",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="annotations that lie on top of all others, the last one topmost, as ASAP's holes do; others as drawn",
    )
    parser.add_argument(
        "--annotations", type=Path, help="another folder of annotation files, or one file of all slides"
    )
    groups = parser.add_mutually_exclusive_group()
    groups.add_argument(
        "--group-pattern",
        metavar="REGEX",
        help="of the patient in a slide's path below the folder, in parentheses; each slide is a group when left out",
    )
    groups.add_argument("--groups", type=Path, metavar="CSV", help="a table with the columns slide and group")
    defaults = SlideSettings()
    patches = parser.add_argument_group("patches")
    patches.add_argument("--patch-microns-per-pixel", type=float, default=defaults.microns_per_pixel, help="of patches")
    patches.add_argument("--patch-size", type=int, default=defaults.patch_size, help="px a side")
    patches.add_argument("--patches-per-slide", type=int, default=defaults.n_patches_per_slide)
    patches.add_argument("--seed", type=int, default=defaults.seed, help="of the places")
    patches.add_argument(
        "--unannotated-is-background",
        action=argparse.BooleanOptionalAction,
        default=defaults.unannotated_is_background,
        help="on annotated slides, tissue that nobody outlined is class 0; else it is unknown (255)",
    )
    reading = parser.add_argument_group("annotations")
    reading.add_argument("--unclassified", metavar="CLASS", help="what polygons without a class show; else left out")
    reading.add_argument("--names-are-classes", action="store_true", help="such a polygon shows what its own name says")
    reading.add_argument("--boxes-are-areas", action="store_true", help="COCO's boxes without outline are all object")
    reading.add_argument("--nuclei", action="store_true", help="outline QuPath's cells by their nuclei")
    _add_resolution(parser)
    parser.add_argument("--override-resolution", action="store_true", help="it counts whatever the files say")
    _add_tissue(parser)


def _make_slides(options: argparse.Namespace, cache_folder: Path) -> PublicTables:
    from sedm.data.archives.slide_folder import make_slides
    from sedm.data.slides.slide_classes import SlideClasses

    if options.override_resolution and options.microns_per_pixel is None:
        raise ValueError("--override-resolution needs --microns-per-pixel")
    if (options.ignore or options.on_top) and not options.classes:
        raise ValueError("--ignore and --on-top need --classes")
    return make_slides(
        options.source,
        cache_folder,
        settings=SlideSettings(
            n_patches_per_slide=options.patches_per_slide,
            patch_size=options.patch_size,
            microns_per_pixel=options.patch_microns_per_pixel,
            unannotated_is_background=options.unannotated_is_background,
            seed=options.seed,
            **_tissue_settings(options),
        ),
        classes=SlideClasses.parse(options.classes, options.ignore, options.on_top) if options.classes else None,
        annotations=options.annotations,
        group_pattern=options.group_pattern,
        group_file=options.groups,
        microns_per_pixel=options.microns_per_pixel,
        overrides=options.override_resolution,
        reading={
            name: getattr(options, name) for name in ("unclassified", "names_are_classes", "boxes_are_areas", "nuclei")
        },
    )


def _add_resolution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--microns-per-pixel", type=float, help="of the finest level of slides whose files do not say")


def _add_tissue(parser: argparse.ArgumentParser) -> None:
    tissue = parser.add_argument_group("how tissue is found; see sedm.data.slides.sections.find_tissue")
    for name in ("min_density", "min_colour", "min_area_mm2"):
        default = getattr(SlideSettings, name)
        tissue.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, help=f"default {default:g}")
    tissue.add_argument("--glass", type=float, nargs=3, metavar=("R", "G", "B"), help="its colour, where not found")
    tissue.add_argument("--leave-out-pen", action=argparse.BooleanOptionalAction, default=SlideSettings.leave_out_pen)


def _tissue_settings(options: argparse.Namespace) -> dict[str, object]:
    names = ("min_density", "min_colour", "min_area_mm2", "leave_out_pen")
    return {name: getattr(options, name) for name in names} | {"glass": options.glass and tuple(options.glass)}
