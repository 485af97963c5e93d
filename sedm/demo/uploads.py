"""A user's own pictures and masks: checked before anything is decoded, then brought to the model's size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sedm.data.patches import UNKNOWN
from sedm.figures import CLASS_COLOURS
from sedm.pretrained import Pretrained

LARGEST = 8192  # px a side: decoding more takes seconds and hundreds of megabytes
SMALLEST = 16  # px a side: less holds no texture
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
LOSSLESS = ("PNG", "TIFF", "BMP")


def read_style_image(content: bytes, name: str, image_size: int) -> UInt8[Tensor, "3 h w"]:
    """The central square of a picture, (3, image_size, image_size), RGB 0…255, ready to lend its style.

    Args:
        content: of the file.
        name: of the file, for messages.
        image_size: px a side.

    Raises:
        ValueError: no picture, too large or too small, with an alpha channel, 16 bits a channel, or animated.

    >>> read_style_image(b"hello", "notes.txt", 64)
    Traceback (most recent call last):
    ...
    ValueError: notes.txt: not a picture that can be read; give a PNG, JPEG, TIFF, WEBP or BMP file
    """
    image = ImageOps.exif_transpose(_open(content, name)).convert("RGB")
    square = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def style_of_files(pretrained: Pretrained, paths: Sequence[str | Path]) -> Float[Tensor, "1 n_tokens dim"]:
    """Make one style of one or several pictures on disk, as the page makes it of uploaded ones.

    Raises:
        ValueError: what ``read_style_image`` refuses.
        OSError: a file that cannot be read.
    """
    size = pretrained.image_size
    images = [read_style_image(Path(path).read_bytes(), Path(path).name, size) for path in paths]
    return style_of_images(pretrained, torch.stack(images))


def style_of_images(pretrained: Pretrained, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "1 n_tokens dim"]:
    """Make one style of some images: as many as in training, again from the first where there are fewer."""
    model = pretrained.pipeline.style_encoder.config.model
    n = model.n_style_images if model.aggregation == "linear" else max(model.n_style_images, len(images))
    rows = [row % len(images) for row in range(n)]
    return pretrained.pipeline.aggregate(pretrained.pipeline.embed(images)[rows][None])


def read_layout(content: bytes, name: str, classes: Sequence[str], image_size: int) -> UInt8[Tensor, "h w"]:
    """The central square of a mask as a layout, (image_size, image_size), class indices 0…K−1 or ``UNKNOWN``.

    The file holds one channel of class indices, 255 where unknown, or the colours that the page shows.

    Raises:
        ValueError: what ``read_style_image`` refuses; a lossy format; a value or colour of no class.
    """
    image = _open(content, name)
    if image.format not in LOSSLESS:
        raise ValueError(f"{name}: a mask as {image.format}, which blurs class indices; give {_listed(LOSSLESS)}")
    pixels = np.array(image.convert("RGB") if image.mode in ("RGB", "CMYK", "YCbCr") else image).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = _from_colours(pixels, name, classes)
    wrong = sorted(set(np.unique(pixels).tolist()) - {*range(len(classes)), UNKNOWN})
    if wrong:
        meaning = ", ".join(f"{index} {one}" for index, one in enumerate(classes))
        raise ValueError(f"{name}: holds the value {wrong[0]}; a mask holds {meaning}, or {UNKNOWN} for unknown")
    square = ImageOps.fit(Image.fromarray(pixels), (image_size, image_size), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(square))


def _open(content: bytes, name: str) -> Image.Image:
    """The decoded picture; its head is checked first, because decoding is what a bomb waits for."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: far too large to be opened; at most {LARGEST} px a side: reduce it") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        wanted = _listed(FORMATS)
        raise ValueError(f"{name}: not a picture that can be read; give a {wanted} file") from error
    width, height = image.size
    if max(width, height) > LARGEST:
        raise ValueError(f"{name}: {width}×{height} px; at most {LARGEST} px a side: cut out a part or reduce it")
    if min(width, height) < SMALLEST:
        raise ValueError(f"{name}: {width}×{height} px; at least {SMALLEST} px a side are needed")
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"{name}: {image.n_frames} frames or pages; give one still picture")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        raise ValueError(f"{name}: has an alpha channel (transparency); save it without one, as RGB")
    if image.mode in ("I", "F") or ";16" in image.mode or ";16" in str(image.tile):
        raise ValueError(f"{name}: more than 8 bits a channel; convert it to 8 bits")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}: a damaged or cut-off {image.format} file ({error})") from error
    return image


def _from_colours(pixels: np.ndarray, name: str, classes: Sequence[str]) -> UInt8[np.ndarray, "h w"]:
    layout = np.full(pixels.shape[:2], UNKNOWN, np.uint8)
    known = np.zeros(pixels.shape[:2], bool)
    for index, colour in enumerate(CLASS_COLOURS[: len(classes)]):
        here = (pixels == colour).all(-1)
        layout[here], known = index, known | here
    if not known.all():
        odd = tuple(pixels[~known][0].tolist())
        raise ValueError(f"{name}: the colour {odd} stands for no class; give one channel of class indices instead")
    return layout


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
