"""Patients of drawn tissue: what stain, scanner and disease fix for all of their patches, and how patches vary."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sedm.data.drawn.canvas import ranges_of, uniform

ARCHITECTURES = ("tubular", "crowded", "cribriform", "solid")
SHARES = (0.34, 0.24, 0.21, 0.21)  # of patches, by architecture


@dataclass(frozen=True)
class TissueStyle:
    """How one patch looks; each range is that of the patients of the population "source"."""

    # stain vectors before normalisation (R, G, B), Ruifrok & Johnston 2001 to Macenko 2009
    h_red: float = uniform(0.56, 0.72)
    h_green: float = uniform(0.66, 0.78)
    h_blue: float = uniform(0.22, 0.42)
    e_red: float = uniform(0.04, 0.22)
    e_green: float = uniform(0.80, 1.00)
    e_blue: float = uniform(0.22, 0.58)
    h_strength: float = uniform(0.75, 1.65)  # optical density per unit of haematoxylin
    e_strength: float = uniform(0.50, 1.50)  # the same of eosin
    thickness: float = uniform(0.86, 1.16)  # of the section; both stains grow with it
    white: float = uniform(0.87, 0.98)  # light through empty glass, of 1
    warmth: float = uniform(-0.03, 0.05)  # red minus blue of it
    blur: float = uniform(0.25, 0.70)  # µm, standard deviation of the optical blur
    shading: float = uniform(0.00, 0.10)  # relative fall of the light across
    shading_angle: float = uniform(0.0, 6.28)  # rad
    noise: float = uniform(0.002, 0.010)  # standard deviation of the sensor's noise, of 1
    gland: float = uniform(58.0, 84.0)  # µm between the centres of glands
    stretch: float = uniform(1.0, 1.8)  # length of a gland over its width
    height: float = uniform(9.5, 14.5)  # µm, epithelium from base to lumen
    nucleus: float = uniform(1.9, 2.6)  # µm, short half axis
    elongation: float = uniform(1.3, 2.6)  # long over short half axis of a nucleus
    pleomorphism: float = uniform(0.04, 0.20)  # standard deviation of the logarithm of a nucleus' size
    spacing: float = uniform(1.4, 1.9)  # between nuclei, in short half axes
    stratification: float = uniform(0.12, 0.45)  # how far nuclei leave the base, of the height
    chromatin: float = uniform(0.05, 0.30)  # contrast of its grain
    vesicular: float = uniform(0.0, 0.6)  # how much paler than its rim the middle of a nucleus is
    hyperchromasia: float = uniform(0.75, 1.35)  # haematoxylin of nuclei
    cytoplasm_e: float = uniform(0.30, 0.70)  # eosin of epithelium
    cytoplasm_h: float = uniform(0.14, 0.50)  # haematoxylin of epithelium
    apical_pallor: float = uniform(0.0, 0.6)  # stain that epithelium loses towards the lumen
    goblets: float = uniform(-0.6, 0.5)  # share of goblet cells, none below 0
    mucin: float = uniform(0.36, 0.54)  # haematoxylin in them
    secretion: float = uniform(0.0, 1.0)  # share of the lumen that is filled
    necrosis: float = uniform(-0.9, 1.0)  # share of it with dead cells, none below 0
    fibre: float = uniform(1.2, 2.6)  # µm, width of fibres
    fibre_contrast: float = uniform(0.4, 1.1)  # of 1
    waves: float = uniform(0.8, 3.2)  # µm, amplitude of fibres
    collagen: float = uniform(0.40, 1.05)  # eosin of fibres
    oedema: float = uniform(0.0, 0.26)  # width of the clefts between them
    fibroblasts: float = uniform(0.2, 0.7)  # share of the places in the stroma that hold one
    lymphocytes: float = uniform(0.0, 0.45)  # the same
    bleeding: float = uniform(-0.3, 0.6)  # chance of a pool of red cells, none below 0
    fat: float = uniform(-1.6, 0.8)  # share of the stroma with fat cells, none below 0
    turn: float = 0.0  # 0…1, where the patient's sequence of architectures begins
    architecture: str = ARCHITECTURES[0]  # how the glands of the patch grow


# fmt: off
RANGES = {
    "source": ranges_of(TissueStyle),
    "shifted": {  # an over-stained, aged, out-of-focus archive of coarser tissue: only what differs from the source
        "h_red": (0.74, 0.80), "h_green": (0.61, 0.70), "h_blue": (0.14, 0.20),
        "e_red": (0.24, 0.36), "e_green": (0.64, 0.78), "e_blue": (0.60, 0.80),
        "h_strength": (1.65, 1.90), "hyperchromasia": (0.80, 1.05), "e_strength": (0.40, 0.70),
        "white": (0.80, 0.86), "warmth": (0.07, 0.16),
        "blur": (0.80, 1.25), "shading": (0.14, 0.28), "cytoplasm_h": (0.30, 0.55),
        "nucleus": (2.65, 3.2), "pleomorphism": (0.22, 0.32), "fibre": (2.8, 3.8),
    },
}
"""What differs between the patients of a population: (lowest, highest), drawn uniformly and once per patient."""

# What differs between patches of a patient: standard deviation of the logarithm, and of the value itself. Thickness
# and staining change over a section, light and white balance from picture to picture; together they bring the share
# of colour variance between patients to what biopsies show.
PATCH_SPREAD = {
    "h_strength": 0.06, "e_strength": 0.08, "collagen": 0.06, "cytoplasm_e": 0.10, "cytoplasm_h": 0.10,
    "height": 0.08, "gland": 0.10, "nucleus": 0.03,
}
PATCH_SHIFT = {
    "warmth": 0.02, "e_blue": 0.035, "h_blue": 0.02, "secretion": 0.1, "necrosis": 0.2, "lymphocytes": 0.05, "fat": 0.2,
}
# fmt: on
# What comes with the loss of architecture, from tubular to solid: change of the logarithm. Nuclei darken, cytoplasm
# loses its eosin, the stroma becomes dense.
ATYPIA = {"hyperchromasia": 0.34, "h_strength": 0.04, "e_strength": -0.40, "collagen": 0.20}


def patient_style(seed: int, patient: int, population: str) -> TissueStyle:
    """Draw the style of one patient.

    >>> style = patient_style(seed=0, patient=3, population="shifted")
    >>> 0.74 <= style.h_red <= 0.80, 0.50 <= style.spacing <= 1.9
    (True, True)
    """
    rng = generator(seed, population, patient, 0)
    values = {name: rng.uniform(*bounds) for name, bounds in (RANGES["source"] | RANGES[population]).items()}
    return TissueStyle(**values, turn=rng.uniform())


def patch_style(patient: TissueStyle, patch: int, rng: np.random.Generator) -> TissueStyle:
    """Draw the style of one patch of a patient from the random numbers of the patch."""
    values = {name: getattr(patient, name) * math.exp(s * rng.standard_normal()) for name, s in PATCH_SPREAD.items()}
    values |= {name: getattr(patient, name) + s * rng.standard_normal() for name, s in PATCH_SHIFT.items()}
    # Golden-ratio steps: a few patches already show every architecture in its share, so that it is no patient's style.
    number = int(np.searchsorted(np.cumsum(SHARES)[:-1], (patient.turn + patch * 0.618034) % 1))
    for name, change in ATYPIA.items():
        values[name] = values.get(name, getattr(patient, name)) * math.exp(change * number / 3)
    return replace(patient, **values, architecture=ARCHITECTURES[number])


def generator(seed: int, population: str, patient: int, stage: int) -> np.random.Generator:
    """Make the random numbers of one (seed, population, patient, stage); stage 0 is the patient, 1 + i its patch i."""
    key = (sorted(RANGES).index(population), patient, stage)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
