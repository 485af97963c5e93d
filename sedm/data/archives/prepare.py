"""Patch tables of public data sets from the command line.

``sedm data flowers102 downloads tables --download`` fetches the archives that are missing in ``downloads``
and writes the tables, with a card that says whose data they are, to ``tables``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from sedm.data.archives import ebhi, flowers102
from sedm.data.archives.catch_slides import Sampling
from sedm.data.archives.download import fetch, figshare_files
from sedm.data.archives.public_tables import PublicTables


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables of a public data set, with a card that says whose data they are.

    Raises:
        ValueError, OSError: what is missing or wrong, in one sentence.

    >>> main(["ebhi", "no/such/folder", "out"])
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: no/such/folder: no such file or folder
    """
    parser = argparse.ArgumentParser(prog="sedm data", description="Make patch tables of public data.")
    parser.add_argument("study", choices=("flowers102", "ebhi", "catch"))
    parser.add_argument("source", type=Path, help="the folder of the archives, of EBHI-SEG, or of the slides")
    parser.add_argument("out", type=Path, help="the folder for train.parquet, validation.parquet and test.parquet")
    parser.add_argument("--download", action="store_true", help="fetch what is missing into the source folder first")
    parser.add_argument("--annotations", type=Path, help="catch: CATCH.json or CATCH.sqlite")
    parser.add_argument("--splits", type=Path, help="catch: a table with the columns Slide and Dataset")
    parser.add_argument(
        "--microns-per-pixel", type=float, help="catch: of the finest level of slides whose files do not say"
    )
    tissue = parser.add_argument_group("catch: how tissue is found; see sedm.data.slides.sections.find_tissue")
    for name in ("min_density", "min_colour", "min_area_mm2"):
        default = getattr(Sampling, name)
        tissue.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, help=f"default {default:g}")
    tissue.add_argument("--glass", type=float, nargs=3, metavar=("R", "G", "B"), help="its colour, where not found")
    tissue.add_argument("--leave-out-pen", action=argparse.BooleanOptionalAction, default=Sampling.leave_out_pen)
    parser.add_argument("--seen", type=int, nargs="+", help="flowers102: numbers of the seen species, for our own draw")
    parser.add_argument("--image-size", type=int, default=128, help="flowers102, ebhi: px a side")
    parser.add_argument("--seed", type=int, help="of the splits; ebhi: cases of the committed results when left out")
    options = parser.parse_args(arguments)
    if options.study == "catch" and not options.annotations:
        parser.error("catch needs --annotations")
    if options.download and options.study == "catch":
        parser.error("the slides of CATCH come from The Cancer Imaging Archive, by its own tool")
    if options.download:
        files = flowers102.FILES if options.study == "flowers102" else figshare_files(ebhi.ARTICLE)
        fetch(files, options.source)
    cache_folder = options.out / ".cache"  # where there must be room anyway
    try:
        _make(options, cache_folder).save(options.out)
    finally:
        shutil.rmtree(cache_folder, ignore_errors=True)


def _make(options: argparse.Namespace, cache_folder: Path) -> PublicTables:
    """Make the tables that the command line asks for."""
    if options.study == "ebhi":
        cases = ebhi.COMMITTED_CASES if options.seed is None else None
        return ebhi.make_ebhi(options.source, image_size=options.image_size, seed=options.seed or 0, cases=cases)
    if options.study == "flowers102":
        return flowers102.make_flowers102(
            options.source,
            cache_folder,
            image_size=options.image_size,
            seed=options.seed or 0,
            seen_species=options.seen,
        )
    from sedm.data.archives import catch  # the others need no reader of slides

    return catch.make_catch(
        options.source,
        options.annotations,
        cache_folder,
        sampling=Sampling(
            min_density=options.min_density,
            min_colour=options.min_colour,
            min_area_mm2=options.min_area_mm2,
            leave_out_pen=options.leave_out_pen,
            glass=options.glass and tuple(options.glass),
        ),
        split_file=options.splits,
        microns_per_pixel=options.microns_per_pixel,
    )
