"""Embedded natural images: procedural flowers whose style is a species' and whose layout is a photograph's.

A species fixes its petals (number, outline, layers), its colours (base, tip, edge, veins, spots), its centre
and where it grows (foliage, grass, soil, sky, shade); a photograph picks how many flowers stand where, how
large, how turned, how tilted, and in which light. Everything is drawn at `CANVAS` px and binned to
`image_size`, so a photograph is the same scene at every size. Lengths are in units of half the image's side,
x to the right, y down.

A petal is drawn in its own coordinates: u from the flower's centre along the petal, v across, t = u / length;
its half width is width · t^a (1 − t)^b, scaled to a maximum of `width`, with a < 1 for broad bases and b < 1
for round tips.
"""

import colorsys
import math
from functools import lru_cache
from types import SimpleNamespace

import datasets
import numpy as np

from sedm.data.patches import from_arrays

CLASSES = ("background", "flower")

CANVAS = 256  # px, side of the drawing
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
    images, masks, groups = [], [], []
    for species in range(first_species, first_species + n_species):
        for number in range(images_per_species):
            image, mask = draw_image(seed, species, number, image_size)
            images.append(image)
            masks.append(mask)
            groups.append(f"species-{species:02d}")
    return from_arrays(np.stack(images), np.stack(masks), groups)


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
            _paint_leaf(scene, flower, pose.x, pose.y, turn, pose.scale * rng.uniform(1.0, 1.6), style, rng)
        _paint_flower(scene, flower, pose, style, rng)
    if rng.uniform() < 0.3:  # a leaf in front, so that outlines are not always whole
        x, y = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9)
        _paint_leaf(scene, flower, x, y, rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.8), style, rng)
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
    coarse, middle, fine = (_noise(rng, length) for length in (110, 40, 12))
    y, x = _grid()
    value, saturation, hue = style.ground_value, style.ground_saturation, style.ground_hue
    if style.habitat == "sky":
        clouds = np.clip(0.35 + 0.35 * coarse + 0.2 * middle, 0, 1)[..., None] * rng.uniform(0.3, 1)
        sky = _rgb(0.58 + hue, 0.35 + 0.5 * saturation, 0.95) * (0.85 - 0.12 * y[..., None])
        return sky + clouds * (0.93 - sky) * 0.8
    if style.habitat == "soil":
        grain = 1 + 0.16 * middle + 0.15 * fine + 0.16 * _noise(rng, 5)
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
        u = (x - at_x) * math.cos(turn) + (y - at_y) * math.sin(turn)
        v = (y - at_y) * math.cos(turn) - (x - at_x) * math.sin(turn)
        cover = np.clip(3 - 3 * np.sqrt((u / size) ** 2 + (v / (0.45 * size)) ** 2), 0, 1)[..., None]
        tone = _rgb(0.28 + hue + 0.04 * rng.standard_normal(), saturation, dim * value * rng.uniform(0.5, 1.35))
        scene = scene + 0.6 * cover * (tone - scene)
    up = _splines(4.0)[:, 1:65]
    up = up / up.sum(axis=1, keepdims=True)
    return np.stack([up @ np.clip(scene[..., c], 0, 1) @ up.T for c in range(3)], axis=-1)


def _stripes(rng: np.random.Generator, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Blurred upright blades, mean 0: waves of several widths across, slowly changing along."""
    return sum(
        np.sin(across * rate + rng.uniform(0, 6.28) + along * rng.uniform(-0.25, 0.25) * rate) / (1 + 0.02 * rate)
        for rate in rng.uniform(8, 60, 7)
    ) / np.sqrt(7)


# ------------------------------------------------------------------------------------ leaves and flowers


def _outline(u, v, length, width, base: float, tip: float):
    """Distance inside a petal's edge (negative outside), t along it, and v over the half width, each as u."""
    t = np.clip(u / length, 1e-3, 1 - 1e-3)
    peak = base / (base + tip)
    half = width * (t / peak) ** base * ((1 - t) / (1 - peak)) ** tip
    inside = np.minimum(half - np.abs(v), np.minimum(u, length - u) * 2)
    return inside, t, v / np.maximum(half, 1e-3)


def _paint_leaf(scene, flower, x: float, y: float, turn: float, length: float, style, rng) -> None:
    """Paints a leaf over the scene and takes what it covers out of the flower, in place."""
    window = _window(x + 0.5 * length * math.cos(turn), y + 0.5 * length * math.sin(turn), 0.75 * length)
    scene, flower = scene[window], flower[window]
    grid_y, grid_x = (grid[window] for grid in _grid())
    u = (grid_x - x) * math.cos(turn) + (grid_y - y) * math.sin(turn)
    v = (grid_y - y) * math.cos(turn) - (grid_x - x) * math.sin(turn)
    v = v + rng.normal(0, 0.25) * u * (u - length)
    inside, t, across = _outline(u, v, length, style.leaf_width * length, 0.6, 0.8)
    cover = np.clip(inside * CANVAS / 4, 0, 1)[..., None]
    ribs = 0.10 * np.cos(60 * (t - 0.35 * np.abs(across))) + 0.35 * np.exp(-((v / 0.012) ** 2))
    shade = rng.uniform(0.75, 1.15) * (0.9 + ribs + 0.18 * np.sign(across) * np.minimum(np.abs(across), 0.6))
    scene *= 1 - 0.35 * (1 - cover) * np.exp(np.minimum(inside, 0) / 0.06)[..., None]
    scene += cover * (style.leaf_colour * shade[..., None] - scene)
    flower *= 1 - cover[..., 0]


def _paint_flower(scene, flower, pose: SimpleNamespace, style: SimpleNamespace, rng: np.random.Generator) -> None:
    """Paints one flower over the scene and adds its cover, 0 to 1, to `flower`, in place."""
    window = _window(pose.x, pose.y, 1.5 * pose.scale)
    scene, flower = scene[window], flower[window]
    grid_y, grid_x = (grid[window] for grid in _grid())
    x, y = (grid_x - pose.x) / pose.scale, (grid_y - pose.y) / pose.scale
    along = (x * math.cos(pose.tilt_to) + y * math.sin(pose.tilt_to)) / pose.tilt
    off = y * math.cos(pose.tilt_to) - x * math.sin(pose.tilt_to)
    radius, angle = np.hypot(along, off), np.arctan2(off, along)
    shadow = np.exp(-np.clip(np.hypot(x - 0.1, y - 0.15) - 0.55, 0, None) * 5)[..., None]
    scene *= 1 - (0.08 if style.habitat == "sky" else 0.4) * shadow  # nothing near the sky to fall on
    light = style.light - pose.tilt_to
    length = 1.0
    for layer in range(style.layers):
        turn = pose.turn + layer * np.pi / style.petals
        _paint_layer(scene, flower, radius, angle, turn, length, light, style, rng)
        length *= style.inner
    _paint_centre(scene, flower, radius, angle, along, off, light, style, rng)


def _paint_layer(scene, flower, radius, angle, turn, length, light, style, rng) -> None:
    """Paints one whorl of petals, each overlapping the one before it, in place."""
    n = style.petals
    step = 2 * np.pi / n
    lengths = length * (1 + 0.05 * rng.standard_normal(n)).astype(np.float32)
    turns = (0.09 * step * rng.standard_normal(n)).astype(np.float32)
    tones = (1 + 0.04 * rng.standard_normal(n)).astype(np.float32)
    peak = style.base / (style.base + style.tip)
    width = length * min(style.fullness * math.tan(min(step / 2, 0.75)) * max(peak, 0.45), 0.46)
    near = radius < 1.3 * length
    radius, angle, below = radius[near], angle[near], scene[near]
    nearest = np.round((angle - turn) / step)
    lit = np.ones_like(radius)  # what the upper neighbours leave of the light
    chosen, widest = np.full((6, len(radius)), -9, np.float32), np.full_like(radius, -9)
    for offset in (1, 0, -1):
        k = ((nearest + offset) % n).astype(int)
        centre = turn + (nearest + offset) * step + turns[k]
        u, v = radius * np.cos(angle - centre), radius * np.sin(angle - centre)
        v = v * (1 + style.ruffle * np.sin(22 / length * u + k.astype(np.float32)))
        reach = lengths[k] * (1 - max(style.notch, 0) * np.exp(-((v / (0.35 * width)) ** 2)))
        inside, t, across = _outline(u, v, reach, width, style.base, style.tip)
        azimuth = centre - light
        shade = lit * tones[k] * (1 + style.contrast * np.cos(azimuth)) * (0.72 + 0.28 * np.minimum(t * 2.2, 1))
        shade = shade * (1 - style.curvature * across**2 * (0.6 + 0.4 * np.sign(across * np.sin(azimuth))))
        widest = np.maximum(widest, inside)
        petal = np.stack([inside, t, across, u / length, v / length, shade])
        # The upper petal stays where it covers; elsewhere whichever is nearer.
        chosen = np.where((chosen[0] > 0) | (chosen[0] > inside), chosen, petal)
        lit = lit * (1 - 0.45 * np.exp(np.minimum(inside, 0) / (0.05 * length)))
    inside, t, across, u, v, shade = chosen
    cover = np.clip(widest * CANVAS / 4 * style.scale, 0, 1)[:, None]
    colour = _petal_colour(t, across, inside / width, u, v, style) * shade[:, None]
    shadow = 0.3 * np.exp(-np.clip(radius - 0.8 * length, 0, None) / 0.12)[:, None]
    scene[near] = cover * colour + (1 - cover) * (1 - shadow) * below
    flower[near] = np.maximum(flower[near], cover[:, 0])


def _petal_colour(t, across, inside, u, v, style: SimpleNamespace) -> np.ndarray:
    """Pigment of petals, float32 (n, 3): gradient base to tip, veins, star, edge, spots and eye."""
    blend = np.clip(t * 1.25 - 0.1, 0, 1)[..., None]
    colour = style.base_colour + blend * (style.tip_colour - style.base_colour)
    amounts = []
    if style.veins > 0:
        lines = np.cos(np.pi * across * style.vein_count) * (1 - 0.5 * t)
        amounts.append((style.veins * np.clip(lines, 0, 1), style.mark_colour))
    if style.star > 0:
        amounts.append((style.star * np.exp(-((across / 0.28) ** 2)) * (1 - t**2), style.mark_colour))
    if style.edge > 0:
        amounts.append(
            (
                style.edge * np.exp(-np.clip(inside, 0, None) / 0.16) * np.clip(3 * t - 1, 0, 1),
                style.edge_colour,
            )
        )
    if style.spots > 0:
        dots = np.cos(38 * u + 9 * v) * np.cos(46 * v)
        amounts.append((style.spots * np.clip(4 * dots - 2.2, 0, 1) * np.clip(1.6 - 2.2 * t, 0, 1), style.mark_colour))
    if style.eye > 0:
        amounts.append((style.eye * np.clip(1.5 - 4 * t, 0, 1), style.eye_colour))
    for amount, pigment in amounts:
        colour = colour + amount[..., None].astype(np.float32) * (pigment - colour)
    return colour


def _paint_centre(scene, flower, radius, angle, along, off, light, style, rng) -> None:
    """Paints the disc, the stamens or the throat of a flower, in place."""
    size = style.centre * (1.15 if style.petals > 8 else 0.75)
    colour = style.centre_colour
    if style.centre_kind == "throat":
        amount = np.clip(1.4 - radius / (0.55 * size), 0, 1)[..., None]
        scene += amount * (0.55 * colour - scene)
        np.maximum(flower, amount[..., 0], out=flower)
        return
    if style.centre_kind == "stamens":
        n = 7 + style.petals
        step = 2 * np.pi / n
        cell = np.round(angle / step)
        reach = (size * rng.uniform(0.9, 1.35, n)).astype(np.float32)[(cell % n).astype(int)]
        turn = angle - cell * step
        dots = np.hypot(radius * np.cos(turn) - reach, radius * np.sin(turn)) / 0.042
        threads = np.clip(1.6 - np.abs(radius * np.sin(turn)) / 0.011, 0, 1) * (radius < reach)
        for amount, pigment in ((0.7 * threads, 0.5 + 0.5 * colour), (np.clip(3 - 2.4 * dots, 0, 1), colour)):
            scene += amount[..., None] * (pigment - scene)
        size = 0.35 * size
    ball = np.clip(radius / size, 0, 1)
    # Two families of spirals, 8 and 13 arms, draw the seeds of a composite flower.
    seeds = np.cos(8 * angle + 17 * np.sqrt(ball)) * np.cos(13 * angle - 21 * np.sqrt(ball))
    tilt = (along * math.cos(light) + off * math.sin(light)) / size
    shade = 0.85 + 0.30 * tilt + 0.22 * seeds * ball - 0.35 * (1 - ball) ** 2 - 0.25 * ball**6
    cover = np.clip((size - radius) * CANVAS / 4 * style.scale, 0, 1)
    scene *= 1 - 0.35 * (1 - cover[..., None]) * np.exp(-np.clip(radius - size, 0, None) / 0.06)[..., None]
    scene += cover[..., None] * (colour * np.clip(shade, 0.1, 1.4)[..., None] - scene)
    np.maximum(flower, cover, out=flower)


# ---------------------------------------------------------------------------------------------- camera


def _photograph(scene: np.ndarray, image_size: int, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """What the camera stores, uint8 (image_size, image_size, 3): side light, exposure, binning and noise."""
    y, x = _grid()
    slope = 0.6 * style.contrast * (x * math.cos(style.light) + y * math.sin(style.light))
    exposure = np.exp(0.10 * rng.standard_normal()) * (1 + slope)
    warmth = 1 + (style.warmth + 0.02 * rng.standard_normal()) * np.array([0.6, 0.1, -1.0])
    lens = _binning(image_size)
    image = np.stack([lens @ (scene[..., c] * exposure * warmth[c]) @ lens.T for c in range(3)], axis=-1)
    image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)  # highlights roll off
    image = image + 0.006 * rng.standard_normal(image.shape)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _bin_mask(flower: np.ndarray, image_size: int) -> np.ndarray:
    """1 where flowers cover more than half a pixel, uint8 (image_size, image_size)."""
    lens = _binning(image_size)
    return (lens @ flower @ lens.T > 0.5).astype(np.uint8)


def _window(x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the canvas within `reach` of (x, y)."""
    edges = [int(np.clip((c + d + 1) * CANVAS / 2, 0, CANVAS)) for c in (y, x) for d in (-reach, reach)]
    return slice(*edges[:2]), slice(*edges[2:])


@lru_cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates y and x of the canvas, float32 (CANVAS, CANVAS) of −1 to 1."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    return (y + 0.5) * (2 / CANVAS) - 1, (x + 0.5) * (2 / CANVAS) - 1


@lru_cache
def _binning(image_size: int) -> np.ndarray:
    """Matrix (image_size, CANVAS) of area averages from the canvas to the pixels."""
    edges = np.linspace(0, CANVAS, image_size + 1)
    left, right = (
        np.maximum(edges[:-1, None], np.arange(CANVAS)),
        np.minimum(edges[1:, None], np.arange(1, CANVAS + 1)),
    )
    return (np.clip(right - left, 0, None) * image_size / CANVAS).astype(np.float32)


@lru_cache
def _splines(length: float) -> np.ndarray:
    """Matrix (CANVAS, m) of cubic B-splines `length` pixels apart, white noise giving variance 1."""
    d = np.abs(np.arange(CANVAS)[:, None] / length + 1 - np.arange(int(CANVAS / length) + 4))
    weights = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0))
    return (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)


def _noise(rng: np.random.Generator, length: float) -> np.ndarray:
    """Smooth noise, float32 (CANVAS, CANVAS), mean 0, variance 1, that changes over about `length` pixels."""
    splines = _splines(length / 2)
    return splines @ rng.standard_normal((splines.shape[1],) * 2, np.float32) @ splines.T
