"""Uploads of own pictures and masks: checked before anything is decoded, then brought to the model's size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sedm.data.pictures import UNKNOWN, check_depth, check_pages, has_alpha, to_class_indices, to_rgb
from sedm.data.reduce import FITS, cut_image, cut_mask, fit_boxes
from sedm.figures import CLASS_COLOURS
from sedm.sharing.pretrained import Pretrained

LARGEST = 8192  # px a side: decoding more takes seconds and hundreds of megabytes
SMALLEST = 16  # px a side: less holds no texture
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
LOSSLESS = ("PNG", "TIFF", "BMP")
LAYOUT_FITS = tuple(fit for fit in FITS if fit != "tile")  # a layout is one picture


def read_style_images(
    content: bytes, name: str, image_size: int, fit: str = "crop"
) -> UInt8[Tensor, "n 3 image_size image_size"]:
    """Read a picture as style images: one, or several of a picture in tiles.

    Args:
        content: of the file.
        name: of the file, for messages.
        image_size: px a side.
        fit: what becomes of a picture that is no square, one of ``sedm.data.reduce.FITS``.

    Returns:
        RGB, 0…255.

    Raises:
        ValueError: no such fit; no picture, too large or too small, with an alpha channel, 16 bits a channel, or
            animated.

    >>> read_style_images(b"hello", "notes.txt", 64)
    Traceback (most recent call last):
    ...
    ValueError: notes.txt: not a picture that can be read; give a PNG, JPEG, TIFF, WEBP or BMP file
    """
    image = to_rgb(ImageOps.exif_transpose(_open(content, name)), name)
    squares = [cut_image(image, box, (image_size, image_size)) for box in fit_boxes(image.size, fit, name)]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()


def style_of_files(
    pretrained: Pretrained, paths: Sequence[str | Path], fit: str = "crop"
) -> Float[Tensor, "1 n_tokens dim"]:
    """Make one style of one or several pictures on disk, as the page makes it of uploaded ones.

    Args:
        fit: what becomes of pictures that are no squares, one of ``sedm.data.reduce.FITS``.

    Raises:
        ValueError: what ``read_style_images`` refuses.
        OSError: a file that cannot be read.
    """
    size = pretrained.image_size
    images = [read_style_images(Path(path).read_bytes(), Path(path).name, size, fit) for path in paths]
    return style_of_images(pretrained, torch.cat(images))


def style_of_images(pretrained: Pretrained, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "1 n_tokens dim"]:
    """Make one style of some images: as many as in training, again from the first where there are fewer."""
    model = pretrained.pipeline.style_encoder.config.model
    n = model.n_style_images if model.aggregation == "linear" else max(model.n_style_images, len(images))
    rows = [row % len(images) for row in range(n)]
    return pretrained.pipeline.aggregate(pretrained.pipeline.embed(images)[rows][None])


def read_layout(
    content: bytes, name: str, classes: Sequence[str], image_size: int, fit: str = "crop"
) -> UInt8[Tensor, "h w"]:
    """Read a mask as a layout, (image_size, image_size), class indices 0…K−1 or ``UNKNOWN``.

    The file holds one channel of class indices, 255 where unknown, or the colours that the page shows.

    Args:
        fit: what becomes of a mask that is no square, one of ``LAYOUT_FITS``.

    Raises:
        ValueError: what ``read_style_images`` refuses; a lossy format; a value or colour of no class.
    """
    if fit not in LAYOUT_FITS:
        raise ValueError(f"fit={fit!r}; a layout is one picture, choose one of {', '.join(LAYOUT_FITS)}")
    image = _open(content, name)
    if image.format not in LOSSLESS:
        raise ValueError(f"{name}: a mask as {image.format}, which blurs class indices; give {_listed(LOSSLESS)}")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGB", "CMYK", "YCbCr"):
        pixels = _from_colours(np.asarray(image.convert("RGB")), name, classes)
    else:
        pixels = to_class_indices(image, name)
    outside = sorted(set(np.unique(pixels).tolist()) - {*range(len(classes)), UNKNOWN})
    if outside:
        meaning = ", ".join(f"{index} {of_class}" for index, of_class in enumerate(classes))
        raise ValueError(f"{name}: holds the value {outside[0]}; a mask holds {meaning}, or {UNKNOWN} for unknown")
    (box,) = fit_boxes(image.size, fit, name)
    return torch.from_numpy(cut_mask(pixels, box, (image_size, image_size)).copy())


def _open(content: bytes, name: str) -> Image.Image:
    """Decode a picture; its head is checked first, because decoding is what a bomb waits for."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: far too large to be opened; at most {LARGEST} px a side: reduce it") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{name}: not a picture that can be read; give a {_listed(FORMATS)} file") from error
    width, height = image.size
    if max(width, height) > LARGEST:
        raise ValueError(f"{name}: {width}×{height} px; at most {LARGEST} px a side: cut out a part or reduce it")
    if min(width, height) < SMALLEST:
        raise ValueError(f"{name}: {width}×{height} px; at least {SMALLEST} px a side are needed")
    check_pages(image, name)
    check_depth(image, name)
    if has_alpha(image):
        raise ValueError(f"{name}: has an alpha channel (transparency); save it without one, as RGB")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}: a damaged or cut-off {image.format} file ({error})") from error
    return image


def _from_colours(pixels: np.ndarray, name: str, classes: Sequence[str]) -> UInt8[np.ndarray, "h w"]:
    """Turn the colours that the page shows into class indices."""
    layout = np.full(pixels.shape[:2], UNKNOWN, np.uint8)
    for index, colour in enumerate(CLASS_COLOURS[: len(classes)]):
        layout[(pixels == colour).all(-1)] = index
    if (layout == UNKNOWN).any():
        colour = tuple(pixels[layout == UNKNOWN][0].tolist())
        raise ValueError(f"{name}: the colour {colour} stands for no class; give one channel of class indices instead")
    return layout


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
