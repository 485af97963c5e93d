"""What the words of all sub-commands have in common: how they are parsed, and how a wrong one is refused."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from sedm.config import PRESETS, Study
from sedm.config.study import RESULTS

STUDY = "its name, the path of its study.toml, or the folder that holds it"


class SentenceParser(argparse.ArgumentParser):
    """Parse words, and refuse a wrong one in one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Refuse a word."""
        raise ValueError(f"{message} ({self.prog} --help says what there is)")


class Parser(SentenceParser):
    """Parse the words of a sub-command.

    Args:
        name: of the sub-command.
        main: its function, whose docstring describes it.
        example: the words after its name.

    >>> parser = Parser("train", main=print, example="tissue")
    >>> _ = parser.add_argument("--n-steps", type=whole_number(1))
    >>> parser.parse_args(["--n-steps", "0"])
    Traceback (most recent call last):
    ...
    ValueError: argument --n-steps: '0'; give a whole number of 1 or more (sedm train --help says what there is)
    """

    def __init__(self, name: str, main: Callable, example: str):
        description = (main.__doc__ or "").partition("\n\n")[0]
        super().__init__(f"sedm {name}", description=description, epilog=f"example: sedm {name} {example}")

    def add_preset(self, help: str = "the size: smoke proves that it runs, quick takes minutes, full hours") -> None:
        """Add the option that chooses the size."""
        self.add_argument("--preset", choices=list(PRESETS), default="quick", help=f"{help}; quick when left out")

    def add_data(self) -> None:
        """Add the option that says where the tables of a built-in study lie."""
        self.add_argument("--data", default="", help="folder of parquet files, for a built-in study on real images")

    def add_seed(self, help: str, **options) -> None:
        """Add the option of a seed."""
        self.add_argument("--seed", type=whole_number(0), help=help, **options)


def whole_number(least: int) -> Callable[[str], int]:
    """Make a parser of whole numbers of ``least`` or more.

    >>> whole_number(0)("7")
    7
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}; give a whole number of {least} or more")
        return value

    return parse


def finite_number(text: str) -> float:
    """Parse a number that is neither infinite nor undefined.

    >>> finite_number("0.5")
    0.5
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}; give a number")
    return value


def new_folder(text: str) -> Path:
    """Parse the name of a folder that there is, or that can be made.

    >>> new_folder(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    argparse.ArgumentTypeError: ...words.py: a file, but a folder is needed; choose another name
    """
    folder = Path(text)
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        part = "" if nearest == folder else f" ({nearest} is a file)"
        raise argparse.ArgumentTypeError(f"{folder}: a file, but a folder is needed{part}; choose another name")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{folder}: nothing may be written to {nearest}; choose another folder")
    return folder


def new_picture(text: str) -> Path:
    """Parse the name of a PNG file that there is, or that can be made.

    >>> new_picture("sheet.docx")
    Traceback (most recent call last):
    ...
    argparse.ArgumentTypeError: sheet.docx: give a name that ends in .png
    """
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: a folder; give a name that ends in .png")
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{path}: give a name that ends in .png")
    new_folder(str(path.parent))
    return path


def refuse_among_images(folder: Path | None, study: Study) -> None:
    """Refuse a folder for results in which the images of a study would be looked for.

    >>> from sedm.config import find_study
    >>> refuse_among_images(Path("out"), find_study("tissue"))
    """
    from sedm.data.study_source import StudySource

    if folder is None or study.file is None:
        return
    for one in study.laboratories or (study,):
        if one.file is not None:
            source, results = StudySource(one).path.resolve(), folder.resolve()
            if results.is_relative_to(source) and RESULTS not in results.relative_to(source).parts:
                raise ValueError(f"--out {folder}: lies among the images of {source}; choose a folder elsewhere")
