"""Species: what makes the flowers of one species alike in all photographs, and where they grow."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from sedm.data.drawn.canvas import ranges_of, uniform

HABITATS = ("foliage", "grass", "soil", "sky", "shade")
CENTRES = ("disc", "stamens", "throat")


@dataclass(frozen=True)
class Traits:
    """What is drawn uniformly for each species; a strength below 0 means that there is none."""

    fullness: float = uniform(0.75, 1.3)  # width of a petal, of the room that it has
    base: float = uniform(0.35, 1.1)  # exponent of the outline at the base: small is broad
    tip: float = uniform(0.22, 0.95)  # exponent of the outline at the tip
    notch: float = uniform(-0.25, 0.22)  # depth of a split tip, of the length
    ruffle: float = uniform(0.0, 0.07)  # strength of a wavy outline
    inner: float = uniform(0.6, 0.8)  # length of a layer over that of the layer outside
    saturation: float = uniform(0.55, 0.95)
    value: float = uniform(0.72, 1.0)
    whiteness: float = uniform(-3.0, 1.0)  # white where positive
    hue_drift: float = uniform(-0.10, 0.10)  # from base to tip, turns of hue
    tip_light: float = uniform(-0.25, 0.35)  # brightness of the tip over that of the base, of 1
    edge: float = uniform(-0.6, 0.7)  # strength
    veins: float = uniform(-0.1, 0.22)  # strength
    vein_count: float = uniform(5.0, 11.0)
    spots: float = uniform(-1.2, 0.9)  # strength
    star: float = uniform(-1.0, 0.8)  # strength
    eye: float = uniform(-0.5, 0.9)  # strength
    curvature: float = uniform(0.15, 0.5)  # shade of a petal's sides
    centre: float = uniform(0.13, 0.34)  # radius, of the flower's
    centre_value: float = uniform(0.35, 1.0)
    ground_hue: float = uniform(-0.06, 0.06)  # turns of hue
    ground_value: float = uniform(0.30, 0.75)
    ground_saturation: float = uniform(0.35, 0.75)
    warmth: float = uniform(-0.10, 0.12)  # red over blue
    contrast: float = uniform(0.06, 0.22)  # of the side light
    light: float = uniform(0.0, 6.28)  # rad, where it comes from
    leaves: float = uniform(0.0, 5.0)  # at most, a flower
    leaf_width: float = uniform(0.16, 0.30)  # of the length
    scale: float = uniform(0.62, 0.86)  # length of petals, in halves of the image's side


@dataclass(frozen=True)
class FlowerStyle(Traits):
    """The look of a species: its traits, its counts, its colours (RGB of 0 to 1, float32 (3,)) and where it grows."""

    petals: int  # 4…21
    layers: int  # 1…3
    centre_kind: str  # one of `CENTRES`
    habitat: str  # one of `HABITATS`
    base_colour: np.ndarray
    tip_colour: np.ndarray
    mark_colour: np.ndarray
    edge_colour: np.ndarray
    eye_colour: np.ndarray
    centre_colour: np.ndarray
    leaf_colour: np.ndarray


def species_style(seed: int, species: int) -> FlowerStyle:
    """Draw the style of one species.

    >>> style = species_style(seed=0, species=3)
    >>> 4 <= style.petals <= 21, style.habitat in HABITATS
    (True, True)
    """
    rng = generator(seed, species, 0)
    values = {name: rng.uniform(*bounds) for name, bounds in ranges_of(Traits).items()}
    traits = Traits(**values)
    petals = int(rng.choice([4, 5, 5, 5, 6, 6, 7, 8, 8, 10, 13, 16, 21]))
    # Golden-ratio steps spread any number of species over the hues from blue through red to yellow.
    hue = 0.60 + 0.56 * ((0.37 * seed + species * 0.618034) % 1)
    is_white = traits.whiteness > 0
    saturation = 0.06 if is_white else traits.saturation
    value = 0.97 if is_white else traits.value
    tip_saturation = saturation * (1 - max(traits.tip_light, 0))
    return FlowerStyle(
        **values,
        petals=petals,
        layers=1 if petals < 5 else int(rng.choice([1, 1, 1, 2, 2, 3])),
        centre_kind="disc" if petals > 8 else CENTRES[rng.choice(3, p=(0.35, 0.35, 0.3))],
        habitat=HABITATS[rng.choice(5, p=(0.36, 0.2, 0.14, 0.14, 0.16))],
        base_colour=rgb(hue, saturation, value),
        tip_colour=rgb(hue + traits.hue_drift * (not is_white), tip_saturation, value + traits.tip_light * 0.4),
        mark_colour=rgb(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.6, 1), rng.uniform(0.3, 0.75)),
        edge_colour=rgb(hue + rng.uniform(-0.1, 0.1), rng.choice([0.08, 0.9]), rng.uniform(0.7, 1)),
        eye_colour=rgb(rng.choice([0.13, 0.15, 0.92, 0.3]), rng.uniform(0.4, 0.95), rng.uniform(0.6, 1)),
        centre_colour=rgb(rng.choice([0.12, 0.14, 0.08, 0.06, 0.2]), rng.uniform(0.6, 0.95), traits.centre_value),
        leaf_colour=rgb(0.31 + traits.ground_hue, traits.ground_saturation, 0.25 + 0.45 * traits.ground_value),
    )


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Make a colour, float32 (3,) of 0 to 1; hue in turns, saturation and value cut to 0 to 1.

    >>> rgb(1 / 3, 1.0, 0.5).tolist()
    [0.0, 0.5, 0.0]
    """
    return np.array(colorsys.hsv_to_rgb(hue % 1, np.clip(saturation, 0, 1), np.clip(value, 0, 1)), np.float32)


def generator(seed: int, species: int, stage: int) -> np.random.Generator:
    """Make the random numbers of one (seed, species, stage); stage 0 is the species, 1 + i its image i."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(species, stage)))
