"""Slides in DICOM: a slide is a series, one file for each level, and more files for its label and overview."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.dicom_image import DicomImage, read_header
from sedm.data.slides.pyramid import Window
from sedm.data.slides.resolution import Resolution, choose_resolution
from sedm.data.slides.stored_tiles import StoredTiles, TileGrid

SOURCE = "its DICOM header"
PREAMBLE = 128  # bytes before the letters DICM


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM by its first bytes."""
    with path.open("rb") as file:
        file.seek(PREAMBLE)
        return file.read(4) == b"DICM"


def series_of(path: Path) -> str:
    """Read which series a DICOM file belongs to: the files of one slide share it.

    Raises:
        PatchTableError: a broken file, or one of no series.
    """
    header = read_header(path, ["SeriesInstanceUID"])
    if not header.get("SeriesInstanceUID"):
        raise PatchTableError(f"{path}: DICOM without a SeriesInstanceUID; expected the file of a slide")
    return str(header.SeriesInstanceUID)


class DicomPyramid:
    """The levels of a slide in DICOM; see :class:`sedm.data.slides.pyramid.Pyramid`.

    Args:
        path: a file of the slide, whose series is looked for in its folder; or the folder of a single slide.

    Raises:
        PatchTableError: no image of a slide, several slides, or frames that cannot be placed.
    """

    glass_place = None

    def __init__(self, path: Path):
        self._path = path
        levels: dict[tuple[int, int], list[DicomImage]] = {}
        for file in _files_of_series(path):
            image = DicomImage.open(file)
            if image is not None:
                levels.setdefault(image.size, []).append(image)
        if not levels:
            raise PatchTableError(f"{path}: no image of a slide in this DICOM series; is it the label or the overview?")
        self.level_sizes = sorted(levels, reverse=True)
        self._levels = [levels[size] for size in self.level_sizes]
        for size, images in levels.items():
            taken = [place for image in images for place in image.frame_at]
            if len({image.tile for image in images}) > 1 or len(set(taken)) < len(taken):
                raise PatchTableError(
                    f"{path}: {len(images)} images of {size[0]}×{size[1]} px in one series, over each other; "
                    "expected one focal plane and one path of light"
                )
        self.tiles = [StoredTiles([_grid(images)], images[0].size) for images in self._levels]

    def stated_resolution(self) -> Resolution:
        """Find the resolution that the file of the finest level states."""
        return choose_resolution({SOURCE: self._levels[0][0].pixel_size}, self._path)

    def read(self, level: int, window: Window) -> UInt8[np.ndarray, "h w 3"]:
        """Read whole pixels of a level as RGB."""
        left, top, right, bottom = window
        pixels = np.zeros((bottom - top, right - left, 3), np.uint8)
        for image in self._levels[level]:
            height, width = image.tile
            for row in range(top // height, -(-bottom // height)):
                for column in range(left // width, -(-right // width)):
                    if (row, column) not in image.frame_at:
                        continue
                    frame = image.decode(image.frame_at[row, column])
                    y, x = row * height, column * width
                    rows = slice(max(top, y), min(bottom, y + height))
                    columns = slice(max(left, x), min(right, x + width))
                    part = frame[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
                    pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
        return pixels

    def close(self) -> None:
        """Close the files."""
        for images in self._levels:
            for image in images:
                image.close()


def _grid(images: Sequence[DicomImage]) -> TileGrid:
    """Tell which tiles of a level its files hold."""
    (height, width), size = images[0].tile, images[0].size
    x_edges = np.append(np.arange(0, size[0], width), size[0])
    y_edges = np.append(np.arange(0, size[1], height), size[1])
    stored = np.zeros((len(y_edges) - 1, len(x_edges) - 1), bool)
    for image in images:
        rows, columns = np.array(list(image.frame_at), int).reshape(-1, 2).T
        stored[rows, columns] = True
    return TileGrid(x_edges, y_edges, stored)


def _files_of_series(path: Path) -> list[Path]:
    """List the files of the series that a path stands for."""
    folder = path if path.is_dir() else path.parent
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and is_dicom(file)]
    series = {file: series_of(file) for file in files}
    if path.is_dir():
        if len(set(series.values())) != 1:
            raise PatchTableError(
                f"{path}: {len(set(series.values()))} DICOM slides in this folder; name a file of one"
            )
        return files
    return [file for file in files if series[file] == series[path]]
