"""Drawing by numbers: smooth noise, area averages, and many images at once on all cores.

What the two embedded generators share. Both draw every image at `CANVAS` px and average it down to the size
asked for, so that an image is the same scene at every size.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import field, fields
from functools import lru_cache
from typing import Any

import numpy as np
from tqdm import tqdm

from sedm.data.reduce import area_weights

CANVAS = 256  # px, side of a drawing
FEW = 64  # images drawn in this process, without a progress bar: 3 s


def uniform(lowest: float, highest: float) -> Any:
    """Declare a field of a style, a dataclass, that is drawn uniformly between two bounds."""
    return field(metadata={"range": (lowest, highest)})


def ranges_of(style: type) -> dict[str, tuple[float, float]]:
    """List the bounds of the fields of a style that are drawn uniformly, in their order.

    >>> from dataclasses import make_dataclass
    >>> ranges_of(make_dataclass("Style", [("blur", float, uniform(0.2, 0.7)), ("kind", str)]))
    {'blur': (0.2, 0.7)}
    """
    return {item.name: item.metadata["range"] for item in fields(style) if "range" in item.metadata}


def check_request(n_groups: int, n_images: int, image_size: int, seed: int, first_group: int) -> None:
    """Refuse to draw fewer than one image, images of an impossible size, or ones of a negative number."""
    if n_groups < 1 or n_images < 1:
        raise ValueError(f"{n_groups} groups of {n_images} images; ask for 1 or more")
    if not 16 <= image_size <= CANVAS:
        raise ValueError(f"image_size={image_size}; images are drawn at {CANVAS} px, choose 16 to {CANVAS}")
    if seed < 0 or first_group < 0:
        raise ValueError(f"seed={seed}, number of the first group {first_group}; neither may be negative")


def noise(rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """Draw smooth noise, float32 (size, size), mean 0, variance 1, that changes over about `length` pixels.

    >>> field = noise(np.random.default_rng(0), 256, length=8.0)
    >>> field.shape, bool(0.8 < field.std() < 1.2), bool(np.abs(np.diff(field)).mean() < 0.4)
    ((256, 256), True, True)
    """
    weights = splines(size, round(max(length / 2, 1.0), 1))
    return weights @ rng.standard_normal((weights.shape[1],) * 2, np.float32) @ weights.T


@lru_cache(maxsize=64)
def splines(size: int, length: float) -> np.ndarray:
    """Make the matrix (size, m) of cubic B-splines `length` pixels apart, white noise giving variance 1.

    >>> weights = splines(64, 8.0)
    >>> weights.shape, bool(np.allclose((weights**2).sum(axis=1), 1))
    ((64, 12), True)
    """
    d = np.abs(np.arange(size)[:, None] / length + 1 - np.arange(int(size / length) + 4))
    weights = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0))
    return (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)


@lru_cache
def grid() -> tuple[np.ndarray, np.ndarray]:
    """Give the coordinates y and x of the canvas, float32 (CANVAS, CANVAS) of −1 to 1.

    >>> y, x = grid()
    >>> float(y[0, 0]), float(x[0, -1])
    (-0.99609375, 0.99609375)
    """
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    return (y + 0.5) * (2 / CANVAS) - 1, (x + 0.5) * (2 / CANVAS) - 1


def rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn coordinates to those along and across a direction that lies `angle` radians from x towards y.

    >>> along, across = rotate(np.array([0.0, 3.0]), np.array([2.0, 0.0]), np.pi / 2)
    >>> along.round(9).tolist(), across.round(9).tolist()
    ([2.0, 0.0], [0.0, -3.0])
    """
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


@lru_cache
def binning(image_size: int) -> np.ndarray:
    """Make the matrix (image_size, CANVAS) of area averages from the canvas to the pixels.

    >>> averages = binning(100)
    >>> averages.shape, (256 * averages[0, :4]).round().tolist()
    ((100, 256), [100.0, 100.0, 56.0, 0.0])
    """
    return area_weights(CANVAS, image_size).astype(np.float32)


def resample(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weight the rows and the columns of an image (n, n, channels) by a matrix (m, n): (m, m, channels).

    >>> resample(np.ones((CANVAS, CANVAS, 3)), binning(64)).shape
    (64, 64, 3)
    """
    planes = (np.ascontiguousarray(image[..., c]) for c in range(image.shape[-1]))
    return np.stack([weights @ plane @ weights.T for plane in planes], axis=-1)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Round light of 0 to 1 to uint8; what lies outside is cut.

    >>> to_bytes(np.array([-0.2, 0.5, 1.3])).tolist()
    [0, 128, 255]
    """
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw_all(
    function: Callable, arguments: Sequence[tuple], *, name: str = "images", n_processes: int | None = None
) -> list:
    """Compute `[function(*a) for a in arguments]` on all cores, with a progress bar above `FEW` images.

    Args:
        function: of a module's top level; the same result whichever process calls it.
        arguments: one tuple a call.
        n_processes: 1 draws in this process; by default one a core, or 1 for few images and wherever a
            process cannot be forked safely.

    >>> draw_all(pow, [(2, 3), (3, 2)])
    [8, 9]
    """
    if n_processes is None:
        n_processes = _n_cores() if len(arguments) > FEW and _can_fork() else 1
    options = dict(desc=f"drawing {name}", unit="image", total=len(arguments), disable=len(arguments) <= FEW)
    with one_thread_products():
        if n_processes == 1:
            return [function(*a) for a in tqdm(arguments, **options)]
        # Forked, because spawned workers would import torch again, which takes longer than the drawing.
        context = multiprocessing.get_context("fork")
        executor = ProcessPoolExecutor(n_processes, context, initializer=_ignore_interrupts)
        try:
            return list(tqdm(executor.map(function, *zip(*arguments, strict=True), chunksize=4), **options))
        finally:  # also after Ctrl-C: what has not begun is dropped
            executor.shutdown(cancel_futures=True)


@contextmanager
def one_thread_products() -> Iterator[None]:
    """Run numpy's matrix products on one thread until the block ends, where numpy computes with OpenBLAS.

    A second thread gains nothing for matrices this small, and spins for long where another process has its core.

    >>> with one_thread_products():
    ...     (np.eye(2) @ np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    get_threads, set_threads = _openblas()
    before = get_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


@lru_cache
def _openblas() -> tuple[Callable, Callable]:
    """Find OpenBLAS's own functions that read and set the number of threads; ones without effect for another BLAS."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # symbols of what numpy is linked with, too
    except (AttributeError, OSError):
        library = None
    for prefix, suffix in (("scipy_openblas", "64_"), ("scipy_openblas", ""), ("openblas", "64_"), ("openblas", "")):
        functions = [getattr(library, f"{prefix}_{verb}_num_threads{suffix}", None) for verb in ("get", "set")]
        if all(functions):
            return tuple(functions)
    return (lambda: 1), (lambda n: None)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_fork() -> bool:
    """Tell whether workers may be forked: on Linux (Apple's BLAS breaks), without CUDA, not from a daemonic worker."""
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_initialized()
    return sys.platform == "linux" and not cuda and not multiprocessing.current_process().daemon


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which reaches the whole group of processes, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
