"""One file of a slide in DICOM: where its frames lie, how large its pixels are, and its frames decoded.

A file says where its frames lie: row by row over the whole level (``TILED_FULL``), or frame by frame. Files of older
converters do neither; then the frames lie in the one of two orders, row by row or column by column, in which their
seams fit.
Source: DICOM PS3.3, C.7.6.17 (Multi-frame Dimension), C.8.12.4 and C.8.12.14 (Whole Slide Microscopy), PS3.5, A.4.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.pyramid import describe_cause
from sedm.runtime.extras import extra

with extra("slides"):
    import pydicom
    from pydicom.encaps import encapsulate, parse_basic_offsets, parse_fragments
    from pydicom.pixels import get_decoder

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # SOP class of VL Whole Slide Microscopy Image Storage
N_SEAMS = 64  # looked at for each order of the frames
Place = tuple[int, int]  # row and column of a tile


class DicomImage:
    """One file of a level.

    Attributes: ``size`` (width and height of the level in pixels), ``tile`` (height and width), ``frame_at`` (the frame
    at each row and column of tiles), ``pixel_size`` (width and height in microns, NaN where not stated).
    """

    def __init__(self, path: Path, header: Any):
        self.path = path
        self._header = header
        self._file = path.open("rb")
        try:
            self._read_facts()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path) -> DicomImage | None:
        """Open a file; None where it shows no level of a slide but its label, its overview, or something else."""
        header = read_header(path)
        kinds = [str(kind) for kind in header.get("ImageType") or ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]]
        if header.get("SOPClassUID") != WHOLE_SLIDE or "VOLUME" not in kinds or "TotalPixelMatrixRows" not in header:
            return None
        return cls(path, header)

    def _read_facts(self) -> None:
        header = self._header
        channels, bits = header.get("SamplesPerPixel"), header.get("BitsAllocated")
        if (channels, bits) != (3, 8):
            raise PatchTableError(f"{self.path}: {channels} channels of {bits} bits; expected RGB of uint8")
        self.size = (int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows))
        self.tile = (int(header.Rows), int(header.Columns))
        self._n_frames = int(header.get("NumberOfFrames", 1))
        self._spans = self._find_frames()
        n_found = sum(map(bool, self._spans))
        if n_found != self._n_frames:
            raise PatchTableError(f"{self.path}: {n_found} frames, but its header promises {self._n_frames}")
        shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
        measures = (shared.get("PixelMeasuresSequence") if shared is not None else None) or [None]
        spacing = measures[0].get("PixelSpacing") if measures[0] is not None else None
        height, width = spacing or (math.nan, math.nan)  # mm
        self.pixel_size = (1000 * float(width), 1000 * float(height))
        self._decoded: tuple[int, np.ndarray] | None = None
        self.frame_at = self._place_frames()

    def _find_frames(self) -> list[list[tuple[int, int]]]:
        """Find the pieces of the file, by offset and length, that hold each frame."""
        header, syntax = self._header, self._header.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated:
            n_bytes = self.tile[0] * self.tile[1] * 3
            start = header.pixels_at
            return [[(start + frame * n_bytes, n_bytes)] for frame in range(self._n_frames)]
        self._file.seek(header.pixels_at)
        basic = parse_basic_offsets(self._file)
        first = self._file.tell()
        _, offsets = parse_fragments(self._file)
        pieces = []
        for offset in offsets:
            self._file.seek(offset + 4)
            pieces.append((offset + 8, int.from_bytes(self._file.read(4), "little")))
        if len(pieces) == self._n_frames:
            return [[piece] for piece in pieces]
        if len(basic) != self._n_frames:
            raise PatchTableError(f"{self.path}: frames in several pieces and no table of their places; convert it")
        starts = np.searchsorted(np.array(basic), [offset - first for offset in offsets], side="right") - 1
        return [[piece for piece, start in zip(pieces, starts, strict=True) if start == n] for n in range(len(basic))]

    def _place_frames(self) -> dict[Place, int]:
        """Find where each frame lies."""
        height, width = self.tile
        n_rows, n_columns = -(-self.size[1] // height), -(-self.size[0] // width)
        stated = list(self._stated_places())
        if stated:
            places = {}
            for frame, (x, y) in enumerate(stated):
                if x % width or y % height or not (0 <= x < self.size[0] and 0 <= y < self.size[1]):
                    raise PatchTableError(
                        f"{self.path}: frame {frame + 1} at ({x}, {y}) px is off the grid of its tiles"
                    )
                places[y // height, x // width] = frame
            if len(places) < len(stated):
                raise PatchTableError(f"{self.path}: frames over each other; expected a single focal plane")
            return places
        if self._n_frames != n_rows * n_columns:
            raise PatchTableError(
                f"{self.path}: {self._n_frames} frames for {n_rows}×{n_columns} tiles, and no places of theirs; "
                "expected one focal plane and one optical path"
            )
        by_row = {(n // n_columns, n % n_columns): n for n in range(self._n_frames)}
        if self._header.get("DimensionOrganizationType") == "TILED_FULL":
            return by_row
        by_column = {(n % n_rows, n // n_rows): n for n in range(self._n_frames)}
        if by_row != by_column and self._misfit(by_column) < self._misfit(by_row):
            warnings.warn(
                f"{self.path}: does not say where its frames lie; read column by column, since so their seams fit",
                stacklevel=2,
            )
            return by_column
        return by_row

    def _stated_places(self) -> Iterator[tuple[int, int]]:
        """Read the left top corner of each frame, where the file states them."""
        for group in self._header.get("PerFrameFunctionalGroupsSequence") or []:
            positions = group.get("PlanePositionSlideSequence")
            if not positions:
                return
            x, y = (positions[0].get(f"{axis}PositionInTotalImagePixelMatrix") for axis in ("Column", "Row"))
            yield int(x) - 1, int(y) - 1

    def _misfit(self, frame_at: dict[Place, int]) -> float:
        """Measure by how many grey levels neighbouring tiles differ along their seams, if frames lie so."""
        pairs = [(place, (place[0], place[1] + 1)) for place in frame_at if (place[0], place[1] + 1) in frame_at]
        step = max(len(pairs) // N_SEAMS, 1)
        differences = [
            np.abs(self.decode(frame_at[left])[:, -1].astype(int) - self.decode(frame_at[right])[:, 0]).mean()
            for left, right in pairs[::step]
        ]
        return float(np.mean(differences)) if differences else 0.0

    def decode(self, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decode a frame as RGB."""
        if self._decoded is not None and self._decoded[0] == frame:
            return self._decoded[1]
        pieces = []
        for offset, length in self._spans[frame]:
            self._file.seek(offset)
            pieces.append(self._file.read(length))
        header, syntax = self._header, self._header.file_meta.TransferSyntaxUID
        data = b"".join(pieces)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of JPEGs in YCbCr whose header says RGB: they are decoded to RGB
            pixels, _ = get_decoder(syntax).as_array(
                encapsulate([data]) if syntax.is_encapsulated else data,
                index=0,
                number_of_frames=1,
                rows=self.tile[0],
                columns=self.tile[1],
                samples_per_pixel=3,
                bits_allocated=8,
                bits_stored=header.BitsStored,
                pixel_representation=header.PixelRepresentation,
                photometric_interpretation=str(header.PhotometricInterpretation),
                planar_configuration=header.get("PlanarConfiguration", 0),
                pixel_keyword="PixelData",
            )
        self._decoded = (frame, pixels)
        return pixels

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_header(path: Path, tags: Sequence[str] | None = None) -> Any:
    """Read what a file says before its pixels, or some of it; ``pixels_at`` is where these begin in it."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of values that break the standard in ways that do not matter here
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
            is_implicit, _ = header.original_encoding
            header.pixels_at = file.tell() + (8 if is_implicit else 12)  # past tag, kind and length
            return header
    except Exception as error:
        raise PatchTableError(f"{path}: not a readable DICOM file ({describe_cause(error)})") from error
