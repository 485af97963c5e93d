"""Embedded natural images: procedural flowers whose style is a species' and whose layout is a photograph's.

A species fixes its petals (number, outline, layers), its colours (base, tip, edge, veins, spots), its centre
and where it grows (foliage, grass, soil, sky, shade); a photograph picks how many flowers stand where, how
large, how turned, how tilted, and in which light. Everything is drawn at `CANVAS` px and binned to
`image_size`, so a photograph is the same scene at every size.
"""

import colorsys
import math
from types import SimpleNamespace

import datasets
import numpy as np

from sedm.data.drawn.canvas import CANVAS, binning, draw_all, grid, noise, resample, rotate, splines, to_bytes
from sedm.data.drawn.plants import paint_flower, paint_leaf
from sedm.data.patch_table import from_arrays

CLASSES = ("background", "flower")

HABITATS = ("foliage", "grass", "soil", "sky", "shade")
CENTRES = ("disc", "stamens", "throat")

# fmt: off
# What differs between species: (lowest, highest), drawn uniformly and once per species.
RANGES = {
    "fullness": (0.75, 1.3),  # petal width, of the room a petal has
    "base": (0.35, 1.1), "tip": (0.22, 0.95),  # exponents a, b of the outline: small is broad
    "notch": (-0.25, 0.22), "ruffle": (0.0, 0.07),  # depth of a split tip where positive; wavy outline
    "inner": (0.6, 0.8),  # length of a layer over the layer outside
    "saturation": (0.55, 0.95), "value": (0.72, 1.0), "whiteness": (-3.0, 1.0),  # white where positive
    "hue_drift": (-0.10, 0.10), "tip_light": (-0.25, 0.35),  # from base to tip, turns of hue; of 1
    "edge": (-0.6, 0.7), "veins": (-0.1, 0.22), "vein_count": (5.0, 11.0),  # painted where positive
    "spots": (-1.2, 0.9), "star": (-1.0, 0.8), "eye": (-0.5, 0.9),  # strength where positive
    "curvature": (0.15, 0.5), "centre": (0.13, 0.34), "centre_value": (0.35, 1.0),
    "ground_hue": (-0.06, 0.06), "ground_value": (0.30, 0.75), "ground_saturation": (0.35, 0.75),
    "warmth": (-0.10, 0.12), "contrast": (0.06, 0.22), "light": (0.0, 6.28),  # red over blue; side light; rad
    "leaves": (0.0, 5.0), "leaf_width": (0.16, 0.30), "scale": (0.62, 0.86),
}
# fmt: on


def make_flowers(
    n_species: int, images_per_species: int, *, image_size: int = 64, seed: int = 0, first_species: int = 0
) -> datasets.Dataset:
    """Patch table of drawn flowers, `n_species * images_per_species` rows ordered by species.

    Columns: `image` (RGB), `mask` (indices into `CLASSES`) and `group` ("species-03"). A row is a pure function
    of (seed, species number, image number, image_size): asking for more never changes the others.

    Raises:
        ValueError: a count below 1, an image size outside 16 to 256 px, a negative seed or first species.

    >>> table = make_flowers(2, 1, image_size=32, seed=0, first_species=3)
    >>> table["group"][:], table[0]["image"].size
    (['species-03', 'species-04'], (32, 32))
    """
    if n_species < 1 or images_per_species < 1:
        raise ValueError(f"n_species={n_species}, images_per_species={images_per_species}; ask for 1 or more")
    if not 16 <= image_size <= CANVAS:
        raise ValueError(f"image_size={image_size}; flowers are drawn at {CANVAS} px, choose 16 to {CANVAS}")
    if seed < 0 or first_species < 0:
        raise ValueError(f"seed={seed}, first_species={first_species}; neither may be negative")
    numbers = [(s, i) for s in range(first_species, first_species + n_species) for i in range(images_per_species)]
    drawn = draw_all(draw_image, [(seed, *number, image_size) for number in numbers], name="flowers")
    images, masks = (np.stack(column) for column in zip(*drawn, strict=True))
    return from_arrays(images, masks, [f"species-{species:02d}" for species, _ in numbers])


def draw_image(seed: int, species: int, number: int, image_size: int):
    """One image, uint8 (image_size, image_size, 3), and its mask, uint8 (image_size, image_size).

    >>> image, mask = draw_image(seed=0, species=3, number=1, image_size=64)
    >>> image.shape, mask.shape, sorted(np.unique(mask).tolist())
    ((64, 64, 3), (64, 64), [0, 1])
    """
    style = _species_style(seed, species)
    rng = _generator(seed, species, 1 + number)
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


def _generator(seed: int, species: int, stage: int) -> np.random.Generator:
    """Random numbers of one (seed, species, stage); stage 0 is the species, 1 + i its image i."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(species, stage)))


def _species_style(seed: int, species: int) -> SimpleNamespace:
    """All values of `RANGES` for one species, its counts, its colours (RGB of 0 to 1) and its habitat."""
    rng = _generator(seed, species, 0)
    style = SimpleNamespace(**{name: rng.uniform(*bounds) for name, bounds in RANGES.items()})
    style.petals = int(rng.choice([4, 5, 5, 5, 6, 6, 7, 8, 8, 10, 13, 16, 21]))
    style.layers = 1 if style.petals < 5 else int(rng.choice([1, 1, 1, 2, 2, 3]))
    style.centre_kind = "disc" if style.petals > 8 else CENTRES[rng.choice(3, p=(0.35, 0.35, 0.3))]
    style.habitat = HABITATS[rng.choice(5, p=(0.36, 0.2, 0.14, 0.14, 0.16))]
    # Golden-ratio steps spread any number of species over the hues from blue through red to yellow.
    spread = (0.37 * seed + species * 0.618034) % 1
    hue = 0.60 + 0.56 * spread
    saturation = 0.06 if style.whiteness > 0 else style.saturation
    value = 0.97 if style.whiteness > 0 else style.value
    style.base_colour = _rgb(hue, saturation, value)
    drifted = hue + style.hue_drift * (style.whiteness <= 0)
    style.tip_colour = _rgb(drifted, saturation * (1 - max(style.tip_light, 0)), value + style.tip_light * 0.4)
    style.mark_colour = _rgb(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.6, 1), rng.uniform(0.3, 0.75))
    style.edge_colour = _rgb(hue + rng.uniform(-0.1, 0.1), rng.choice([0.08, 0.9]), rng.uniform(0.7, 1))
    style.eye_colour = _rgb(rng.choice([0.13, 0.15, 0.92, 0.3]), rng.uniform(0.4, 0.95), rng.uniform(0.6, 1))
    style.centre_colour = _rgb(rng.choice([0.12, 0.14, 0.08, 0.06, 0.2]), rng.uniform(0.6, 0.95), style.centre_value)
    style.leaf_colour = _rgb(0.31 + style.ground_hue, style.ground_saturation, 0.25 + 0.45 * style.ground_value)
    return style


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Colour, float32 (3,) of 0 to 1; hue in turns, saturation and value cut to 0 to 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, np.clip(saturation, 0, 1), np.clip(value, 0, 1)), np.float32)


def _draw_poses(style: SimpleNamespace, rng: np.random.Generator) -> list[SimpleNamespace]:
    """Poses of a photograph's flowers, from small to large: x, y, scale, turn, tilt and its direction."""
    n = int(rng.choice([1, 2, 3], p=(0.68, 0.22, 0.10)))
    start = rng.uniform(0, 2 * np.pi)
    poses = []
    for i in range(n):
        around = start + 2 * np.pi * i / n
        away = rng.uniform(0, 0.28) if n == 1 else rng.uniform(0.42, 0.6)
        scale = style.scale * rng.uniform(0.8, 1.25) * (1.0, 0.72, 0.6)[n - 1]
        poses.append(
            SimpleNamespace(
                x=away * math.cos(around), y=away * math.sin(around),
                scale=scale, turn=rng.uniform(0, 2 * np.pi), tilt=rng.uniform(0.62, 1.0), tilt_to=rng.uniform(0, np.pi),
            )
        )  # fmt: skip
    return sorted(poses, key=lambda pose: pose.scale)


# --------------------------------------------------------------------------------------------- habitat


def _draw_habitat(style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Out-of-focus surroundings, float32 (CANVAS, CANVAS, 3) of 0 to 1."""
    coarse, middle, fine = (noise(rng, CANVAS, length) for length in (110, 40, 12))
    y, x = grid()
    value, saturation, hue = style.ground_value, style.ground_saturation, style.ground_hue
    if style.habitat == "sky":
        clouds = np.clip(0.35 + 0.35 * coarse + 0.2 * middle, 0, 1)[..., None] * rng.uniform(0.3, 1)
        sky = _rgb(0.58 + hue, 0.35 + 0.5 * saturation, 0.95) * (0.85 - 0.12 * y[..., None])
        return sky + clouds * (0.93 - sky) * 0.8
    if style.habitat == "soil":
        grain = 1 + 0.16 * middle + 0.15 * fine + 0.16 * noise(rng, CANVAS, 5)
        return _rgb(0.075 + 0.5 * hue, 0.3 + 0.4 * saturation, 0.75 * value) * grain[..., None]
    green = _rgb(0.29 + hue, saturation, value)
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
        tone = _rgb(0.28 + hue + 0.04 * rng.standard_normal(), saturation, dim * value * rng.uniform(0.5, 1.35))
        scene = scene + 0.6 * cover * (tone - scene)
    up = splines(CANVAS, 4.0)[:, 1:65]
    return resample(np.clip(scene, 0, 1), up / up.sum(axis=1, keepdims=True))


def _stripes(rng: np.random.Generator, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Blurred upright blades, mean 0: waves of several widths across, slowly changing along."""
    return sum(
        np.sin(across * rate + rng.uniform(0, 6.28) + along * rng.uniform(-0.25, 0.25) * rate) / (1 + 0.02 * rate)
        for rate in rng.uniform(8, 60, 7)
    ) / np.sqrt(7)


# ---------------------------------------------------------------------------------------------- camera


def _photograph(scene: np.ndarray, image_size: int, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """What the camera stores, uint8 (image_size, image_size, 3): side light, exposure, binning and noise."""
    y, x = grid()
    slope = 0.6 * style.contrast * (x * math.cos(style.light) + y * math.sin(style.light))
    exposure = np.exp(0.10 * rng.standard_normal()) * (1 + slope)
    warmth = 1 + (style.warmth + 0.02 * rng.standard_normal()) * np.array([0.6, 0.1, -1.0])
    image = resample(scene * exposure[..., None] * warmth, binning(image_size))
    image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)  # highlights roll off
    image = image + 0.006 * rng.standard_normal(image.shape)
    return to_bytes(image)


def _bin_mask(flower: np.ndarray, image_size: int) -> np.ndarray:
    """1 where flowers cover more than half a pixel, uint8 (image_size, image_size)."""
    lens = binning(image_size)
    return (lens @ flower @ lens.T > 0.5).astype(np.uint8)
