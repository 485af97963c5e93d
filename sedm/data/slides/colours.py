"""How a slide's file stores colours, so that pixels come out as RGB or not at all.

Readers hand out what the codec gives. Aperio's JPEG 2000 (compression 33003) holds luma and chroma: where the chroma
is halved, the codec turns them into RGB; where it is not, nobody does, and glass comes out as (245, 128, 128).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.stored_tiles import Region

# Source of the numbers: TIFF 6.0, section 8; libtiff's tiff.h; openslide-vendor-aperio.c for 33003 and 33005
GREY, RGB, YCBCR = 1, 2, 6  # of the tag PhotometricInterpretation
JPEG = (6, 7, 33007, 34892)  # of the tag Compression: their decoders look at the photometric interpretation
JPEG_2000 = (33003, 33004, 33005, 34712)  # theirs does not
APERIO_YCBCR, APERIO_RGB = 33003, 33005  # JPEG 2000; the photometric interpretation says nothing about these
FULL, HALVED = (1, 1), ((2, 1), (2, 2))  # pixels a sample, across and down; halved chroma the decoder turns into RGB
HEADER_BYTES = 1 << 16  # more than the main header of a tile takes


def holds_ycbcr(regions: Sequence[Region]) -> bool:
    """Tell whether the decoded pixels of a level are YCbCr, still to be turned into RGB.

    Raises:
        PatchTableError: the colours cannot be known, as in a file of CMYK; the message lacks the file's name.
    """
    answers = {_page_holds_ycbcr(region) for region in regions}
    if len(answers) > 1:
        raise PatchTableError("its regions store colours in different ways; expected one way")
    return answers == {True}


def _page_holds_ycbcr(region: Region) -> bool:
    compression, photometric = int(region.keyframe.compression), int(region.keyframe.photometric)
    if compression == APERIO_RGB:
        return False
    if compression != APERIO_YCBCR:
        if photometric in (GREY, RGB) or (photometric == YCBCR and compression in JPEG):
            return False
        if photometric != YCBCR or compression not in JPEG_2000:
            names = [getattr(tag, "name", tag) for tag in (region.keyframe.photometric, region.keyframe.compression)]
            raise PatchTableError(
                f"its colours are {names[0]}, compressed as {names[1]}; expected RGB, or YCbCr in JPEG or JPEG 2000"
            )
    header = _first_header(region)
    if header is None:  # no tile at all
        return False
    luma, *chroma = header.sampling or [None]
    if luma != (1, 1) or chroma not in ([sampling] * 2 for sampling in (FULL, *HALVED)):
        raise PatchTableError(
            f"the planes of its JPEG 2000 are sampled by {header.sampling}; expected {FULL} for luma and, for both of "
            f"chroma, {FULL}, {HALVED[0]} or {HALVED[1]}"
        )
    if header.is_transformed:
        raise PatchTableError(
            f"compression {compression} says YCbCr, but its JPEG 2000 transforms RGB itself: the colours are in doubt; "
            "convert the slide to compression 33005 or JPEG"
        )
    return chroma[0] == FULL


def ycbcr_to_rgb(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Turn YCbCr of the full range (JFIF, ITU-R BT.601) into RGB.

    >>> ycbcr_to_rgb(np.array([[[245, 128, 128], [76, 85, 255]]], np.uint8)).tolist()
    [[[245, 245, 245], [254, 0, 0]]]
    """
    height, width, _ = pixels.shape
    return np.array(Image.frombytes("YCbCr", (width, height), pixels.tobytes()).convert("RGB"))


class CodestreamHeader(NamedTuple):
    """What the main header of a JPEG 2000 codestream says about colours."""

    sampling: tuple[tuple[int, int], ...]  # of each plane: pixels of the image a sample, across and down
    is_transformed: bool  # the decoder turns the planes into RGB by the codestream's own transform


def read_codestream_header(data: bytes) -> CodestreamHeader:
    """Read the sampling and the colour transform from the beginning of a JPEG 2000 codestream.

    Source: ISO/IEC 15444-1, annex A: the segments SIZ (A.5.1) and COD (A.6.1).

    Raises:
        PatchTableError: not a codestream.

    >>> import imagecodecs
    >>> picture = np.zeros((8, 8, 3), np.uint8)
    >>> read_codestream_header(imagecodecs.jpeg2k_encode(picture, codecformat="j2k", mct=False))
    CodestreamHeader(sampling=((1, 1), (1, 1), (1, 1)), is_transformed=False)
    """
    if data[:4] != b"\xff\x4f\xff\x51":
        raise PatchTableError("compression says JPEG 2000, but its first tile is no JPEG 2000 codestream")
    sampling, place = (), 2
    while place + 4 <= len(data):
        marker, length = data[place : place + 2], int.from_bytes(data[place + 2 : place + 4])
        segment = data[place + 4 : place + 2 + length]
        if len(segment) < max(length - 2, 1):
            break
        if marker == b"\xff\x51":
            n_planes = int.from_bytes(segment[34:36])
            sampling = tuple(zip(segment[37::3], segment[38::3], strict=False))[:n_planes]
        elif marker == b"\xff\x52":
            return CodestreamHeader(sampling, is_transformed=segment[4:5] != b"\0")
        place += 2 + length
    raise PatchTableError("the header of its first JPEG 2000 tile ends early")


def _first_header(region: Region) -> CodestreamHeader | None:
    page: Any
    for page in region.pages:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset > 0 and count > 0:
                file = page.parent.filehandle
                with file.lock:
                    file.seek(offset)
                    data = file.read(min(count, HEADER_BYTES))
                return read_codestream_header(data)
    return None
