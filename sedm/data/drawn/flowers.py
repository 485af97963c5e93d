"""Embedded natural images: procedural flowers whose style is a species' and whose layout is a photograph's.

A species fixes its petals (number, outline, layers), its colours (base, tip, edge, veins, spots), its centre
and where it grows (foliage, grass, soil, sky, shade); a photograph picks how many flowers stand where, how
large, how turned, how tilted, and in which light. Everything is drawn at `CANVAS` px and binned to
`image_size`, so a photograph is the same scene at every size.
"""

from __future__ import annotations

import math

import datasets
import numpy as np

from sedm.data.drawn.canvas import (
    CANVAS,
    binning,
    check_request,
    draw_all,
    grid,
    noise,
    resample,
    rotate,
    splines,
    to_bytes,
)
from sedm.data.drawn.plants import Pose, paint_flower, paint_leaf
from sedm.data.drawn.species import FlowerStyle, generator, rgb, species_style
from sedm.data.patch_table import from_arrays

CLASSES = ("background", "flower")


def make_flowers(
    n_species: int, images_per_species: int, *, image_size: int = 64, seed: int = 0, first_species: int = 0
) -> datasets.Dataset:
    """Draw a patch table of flowers, `n_species * images_per_species` rows ordered by species.

    Columns: `image` (RGB), `mask` (indices into `CLASSES`) and `group` ("species-03"). A row is a pure function
    of (seed, species number, image number, image_size): asking for more never changes the others.

    Raises:
        ValueError: a count below 1, an image size outside 16 to 256 px, a negative seed or first species.

    >>> table = make_flowers(2, 1, image_size=32, seed=0, first_species=3)
    >>> table["group"][:], table[0]["image"].size
    (['species-03', 'species-04'], (32, 32))
    """
    check_request(n_species, images_per_species, image_size, seed, first_species)
    numbers = [(s, i) for s in range(first_species, first_species + n_species) for i in range(images_per_species)]
    drawn = draw_all(draw_image, [(seed, *number, image_size) for number in numbers], name="flowers")
    images, masks = (np.stack(column) for column in zip(*drawn, strict=True))
    return from_arrays(images, masks, [f"species-{species:02d}" for species, _ in numbers])


def draw_image(seed: int, species: int, number: int, image_size: int):
    """Draw one image, uint8 (image_size, image_size, 3), and its mask, uint8 (image_size, image_size).

    >>> image, mask = draw_image(seed=0, species=3, number=1, image_size=64)
    >>> image.shape, mask.shape, sorted(np.unique(mask).tolist())
    ((64, 64, 3), (64, 64), [0, 1])
    """
    style = species_style(seed, species)
    rng = generator(seed, species, 1 + number)
    scene = _draw_habitat(style, rng)
    flower = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    for pose in _draw_poses(style, rng):
        for turn in rng.uniform(0, 2 * np.pi, round(style.leaves * rng.uniform(0.3, 1.0))).tolist():
            paint_leaf(scene, flower, pose.x, pose.y, turn, pose.scale * rng.uniform(1.0, 1.6), style, rng)
        paint_flower(scene, flower, pose, style, rng)
    if rng.uniform() < 0.3:  # a leaf in front, so that outlines are not always whole
        x, y = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9)
        paint_leaf(scene, flower, x, y, rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.8), style, rng)
    return _photograph(scene, image_size, style, rng), _bin_mask(flower, image_size)


def _draw_poses(style: FlowerStyle, rng: np.random.Generator) -> list[Pose]:
    """Draw the poses of a photograph's flowers, from small to large."""
    n = int(rng.choice([1, 2, 3], p=(0.68, 0.22, 0.10)))
    start = rng.uniform(0, 2 * np.pi)
    poses = []
    for i in range(n):
        around = start + 2 * np.pi * i / n
        away = rng.uniform(0, 0.28) if n == 1 else rng.uniform(0.42, 0.6)
        scale = style.scale * rng.uniform(0.8, 1.25) * (1.0, 0.72, 0.6)[n - 1]
        pose = Pose(
            x=away * math.cos(around),
            y=away * math.sin(around),
            scale=scale,
            turn=rng.uniform(0, 2 * np.pi),
            tilt=rng.uniform(0.62, 1.0),
            tilt_to=rng.uniform(0, np.pi),
        )
        poses.append(pose)
    return sorted(poses, key=lambda pose: pose.scale)


# --------------------------------------------------------------------------------------------- habitat


def _draw_habitat(style: FlowerStyle, rng: np.random.Generator) -> np.ndarray:
    """Draw the out-of-focus surroundings, float32 (CANVAS, CANVAS, 3) of 0 to 1."""
    coarse, middle, fine = (noise(rng, CANVAS, length) for length in (110, 40, 12))
    y, x = grid()
    value, saturation, hue = style.ground_value, style.ground_saturation, style.ground_hue
    if style.habitat == "sky":
        clouds = np.clip(0.35 + 0.35 * coarse + 0.2 * middle, 0, 1)[..., None] * rng.uniform(0.3, 1)
        sky = rgb(0.58 + hue, 0.35 + 0.5 * saturation, 0.95) * (0.85 - 0.12 * y[..., None])
        return sky + clouds * (0.93 - sky) * 0.8
    if style.habitat == "soil":
        grain = 1 + 0.16 * middle + 0.15 * fine + 0.16 * noise(rng, CANVAS, 5)
        return rgb(0.075 + 0.5 * hue, 0.3 + 0.4 * saturation, 0.75 * value) * grain[..., None]
    green = rgb(0.29 + hue, saturation, value)
    if style.habitat == "grass":
        lean = 0.35 * rng.standard_normal()
        blades = _stripes(rng, x + lean * y + 0.05 * coarse, y)
        return np.clip(green * (0.75 + 0.3 * blades + 0.1 * coarse)[..., None], 0, 1)
    dim = 0.45 if style.habitat == "shade" else 1.0
    scene = green * dim * np.clip(0.7 + 0.22 * coarse + 0.16 * middle, 0.1, None)[..., None]
    x, y, scene = x[::4, ::4], y[::4, ::4], scene[::4, ::4]  # all is blurred here: a quarter of the pixels do
    for _ in range(16):  # leaves and lights
        at_x, at_y, turn, size = rng.uniform((-1.1, -1.1, 0, 0.2), (1.1, 1.1, np.pi, 0.5)).tolist()
        u, v = rotate(x - at_x, y - at_y, turn)
        cover = np.clip(3 - 3 * np.sqrt((u / size) ** 2 + (v / (0.45 * size)) ** 2), 0, 1)[..., None]
        tone = rgb(0.28 + hue + 0.04 * rng.standard_normal(), saturation, dim * value * rng.uniform(0.5, 1.35))
        scene = scene + 0.6 * cover * (tone - scene)
    up = splines(CANVAS, 4.0)[:, 1:65]
    return resample(np.clip(scene, 0, 1), up / up.sum(axis=1, keepdims=True))


def _stripes(rng: np.random.Generator, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Draw blurred upright blades, mean 0: waves of several widths across, slowly changing along."""
    return sum(
        np.sin(across * rate + rng.uniform(0, 6.28) + along * rng.uniform(-0.25, 0.25) * rate) / (1 + 0.02 * rate)
        for rate in rng.uniform(8, 60, 7)
    ) / np.sqrt(7)


# ---------------------------------------------------------------------------------------------- camera


def _photograph(scene: np.ndarray, image_size: int, style: FlowerStyle, rng: np.random.Generator) -> np.ndarray:
    """Photograph a scene, uint8 (image_size, image_size, 3): side light, exposure, binning and noise."""
    y, x = grid()
    slope = 0.6 * style.contrast * (x * math.cos(style.light) + y * math.sin(style.light))
    exposure = np.exp(0.10 * rng.standard_normal()) * (1 + slope)
    warmth = 1 + (style.warmth + 0.02 * rng.standard_normal()) * np.array([0.6, 0.1, -1.0])
    image = resample(scene * exposure[..., None] * warmth, binning(image_size))
    image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)  # highlights roll off
    image = image + 0.006 * rng.standard_normal(image.shape)
    return to_bytes(image)


def _bin_mask(flower: np.ndarray, image_size: int) -> np.ndarray:
    """Mark with 1 where flowers cover more than half a pixel, uint8 (image_size, image_size)."""
    lens = binning(image_size)
    return (lens @ flower @ lens.T > 0.5).astype(np.uint8)
