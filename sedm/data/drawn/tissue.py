"""Embedded histology: procedural H&E-like tissue whose style is a patient's and whose layout is a patch's.

A patch shows a field of 128 µm. It is drawn once at 0.5 µm per pixel and then seen through an optical system
that blurs and bins it to `image_size`, so a patch is the same tissue at every size. Three steps:

1. `anatomy`: glands (nearest warped seed points) cut a lumen out of epithelium out of stroma, cells are placed
   along the distance to the gland's border;
2. `stains`: every point holds some haematoxylin h and some eosin e (no unit, 1 = a typical nucleus or fibre);
3. optics, here: Beer–Lambert, I = I_0 exp(−(h·H + e·E)), then blur, binning, uneven light and sensor noise.

Everything a stain, a scanner or a disease fixes for a whole patient is drawn once from `RANGES`.
"""

import math
from functools import lru_cache
from types import SimpleNamespace

import datasets
import numpy as np

from sedm.data.drawn.anatomy import ARCHITECTURES, CLASSES, FIELD, draw_anatomy
from sedm.data.drawn.canvas import CANVAS, binning, draw_all, resample, to_bytes
from sedm.data.drawn.tissue_stains import draw_stains
from sedm.data.patch_table import from_arrays

# fmt: off
# What differs between patients: (lowest, highest), drawn uniformly and once per patient.
RANGES = {
    "source": {
        # Stain vectors before normalisation (R, G, B), Ruifrok & Johnston 2001 to Macenko 2009.
        "h_red": (0.56, 0.72), "h_green": (0.66, 0.78), "h_blue": (0.22, 0.42),
        "e_red": (0.04, 0.22), "e_green": (0.80, 1.00), "e_blue": (0.22, 0.58),
        "h_strength": (0.75, 1.65), "e_strength": (0.50, 1.50),  # optical density per unit of stain
        "thickness": (0.86, 1.16),  # of the section; both stains grow with it
        "white": (0.87, 0.98), "warmth": (-0.03, 0.05),  # empty glass of 1; red minus blue of it
        "blur": (0.25, 0.70),  # µm, standard deviation of the optical blur
        "shading": (0.00, 0.10), "shading_angle": (0.0, 6.28),  # relative fall of the light across; radian
        "noise": (0.002, 0.010),  # standard deviation of the sensor's noise, of 1
        "gland": (58.0, 84.0), "stretch": (1.0, 1.8),  # µm between gland centres; elongation
        "height": (9.5, 14.5),  # µm, epithelium from base to lumen
        "nucleus": (1.9, 2.6), "elongation": (1.3, 2.6),  # µm, short half axis; long over short
        "pleomorphism": (0.04, 0.20), "spacing": (1.4, 1.9),  # spread of log size; gap in short half axes
        "stratification": (0.12, 0.45),  # how far nuclei leave the base, of the height
        "chromatin": (0.05, 0.30), "vesicular": (0.0, 0.6), "hyperchromasia": (0.75, 1.35),
        "cytoplasm_e": (0.30, 0.70), "cytoplasm_h": (0.14, 0.50), "apical_pallor": (0.0, 0.6),
        "goblets": (-0.6, 0.5), "mucin": (0.36, 0.54),  # share of goblet cells where positive; haematoxylin in them
        "secretion": (0.0, 1.0), "necrosis": (-0.9, 1.0),  # share of lumen filled; with dead cells where positive
        "fibre": (1.2, 2.6), "fibre_contrast": (0.4, 1.1), "waves": (0.8, 3.2),  # µm; of 1; µm amplitude
        "collagen": (0.40, 1.05), "oedema": (0.0, 0.26),  # eosin of fibres; width of clefts between them
        "fibroblasts": (0.2, 0.7), "lymphocytes": (0.0, 0.45), "bleeding": (-0.3, 0.6),
        "fat": (-1.6, 0.8),  # share of the stroma with fat cells where positive
    },
    "shifted": {  # an over-stained, aged, out-of-focus archive of coarser tissue: only what differs from the source
        "h_red": (0.74, 0.80), "h_green": (0.61, 0.70), "h_blue": (0.14, 0.20),
        "e_red": (0.24, 0.36), "e_green": (0.64, 0.78), "e_blue": (0.60, 0.80),
        "h_strength": (1.65, 1.90), "hyperchromasia": (0.80, 1.05), "e_strength": (0.40, 0.70),
        "white": (0.80, 0.86), "warmth": (0.07, 0.16),
        "blur": (0.80, 1.25), "shading": (0.14, 0.28), "cytoplasm_h": (0.30, 0.55),
        "nucleus": (2.65, 3.2), "pleomorphism": (0.22, 0.32), "fibre": (2.8, 3.8),
    },
}
# fmt: on
# What differs between patches of a patient: standard deviation of the logarithm, and of the value itself. Thickness
# and staining change over a section, light and white balance from picture to picture; together they bring the share
# of colour variance between patients to what biopsies show.
PATCH_SPREAD = {
    **{"h_strength": 0.06, "e_strength": 0.08, "collagen": 0.06, "cytoplasm_e": 0.10, "cytoplasm_h": 0.10},
    **{"height": 0.08, "gland": 0.10, "nucleus": 0.03},
}
PATCH_SHIFT = {
    **{"warmth": 0.02, "e_blue": 0.035, "h_blue": 0.02},
    **{"secretion": 0.1, "necrosis": 0.2, "lymphocytes": 0.05, "fat": 0.2},
}
SHARES = (0.34, 0.24, 0.21, 0.21)  # of patches, by architecture
# What comes with the loss of architecture, from tubular to solid: change of the logarithm. Nuclei darken, cytoplasm
# loses its eosin, the stroma becomes dense.
ATYPIA = {"hyperchromasia": 0.34, "h_strength": 0.04, "e_strength": -0.40, "collagen": 0.20}


def make_tissue(
    n_patients: int,
    patches_per_patient: int,
    *,
    image_size: int = 64,
    seed: int = 0,
    first_patient: int = 0,
    population: str = "source",
) -> datasets.Dataset:
    """Patch table of drawn tissue, `n_patients * patches_per_patient` rows ordered by patient.

    Columns: `image` (RGB, `image_size` px for 128 µm), `mask` (indices into `CLASSES`), `group` (such as
    "patient-007"), `population` and `architecture` (how the patch's glands grow: one of `ARCHITECTURES`). A row is
    a pure function of (seed, population, patient number, patch number, image_size): asking for more patients or
    patches never changes the others.

    `population="shifted"` draws patients whose stain and scanner lie outside the range of "source".

    Raises:
        ValueError: a count below 1, an image size outside 16 to 256 px, a negative seed or first patient,
            or an unknown population.

    >>> table = make_tissue(2, 1, image_size=32, seed=0, first_patient=5)
    >>> table["group"][:], table[0]["image"].size
    (['patient-005', 'patient-006'], (32, 32))
    """
    if n_patients < 1 or patches_per_patient < 1:
        raise ValueError(f"n_patients={n_patients}, patches_per_patient={patches_per_patient}; ask for 1 or more")
    if not 16 <= image_size <= CANVAS:
        raise ValueError(f"image_size={image_size}; tissue is drawn at {CANVAS} px, choose 16 to {CANVAS}")
    if seed < 0 or first_patient < 0:
        raise ValueError(f"seed={seed}, first_patient={first_patient}; neither may be negative")
    if population not in RANGES:
        raise ValueError(f"population={population!r}; choose one of {sorted(RANGES)}")
    numbers = [(p, i) for p in range(first_patient, first_patient + n_patients) for i in range(patches_per_patient)]
    drawn = draw_all(_draw_row, [(seed, *number, image_size, population) for number in numbers], name="tissue")
    images, masks, architectures = zip(*drawn, strict=True)
    groups = [f"patient-{patient:03d}" for patient, _ in numbers]
    columns = {"population": [population] * len(groups), "architecture": architectures}
    return from_arrays(np.stack(images), np.stack(masks), groups, **columns)


def draw_patch(seed: int, patient: int, patch: int, image_size: int, population: str = "source"):
    """One image, uint8 (image_size, image_size, 3), and its mask, uint8 (image_size, image_size).

    >>> image, mask = draw_patch(seed=0, patient=3, patch=1, image_size=64)
    >>> image.shape, mask.shape, int(mask.max()) < len(CLASSES)
    ((64, 64, 3), (64, 64), True)
    """
    return _draw_row(seed, patient, patch, image_size, population)[:2]


def _draw_row(seed: int, patient: int, patch: int, image_size: int, population: str):
    """As `draw_patch`, and the architecture of the patch."""
    style = _patient_style(seed, patient, population)
    rng = _generator(seed, population, patient, 1 + patch)
    for name, spread in PATCH_SPREAD.items():
        setattr(style, name, getattr(style, name) * math.exp(spread * rng.standard_normal()))
    for name, spread in PATCH_SHIFT.items():
        setattr(style, name, getattr(style, name) + spread * rng.standard_normal())
    # Golden-ratio steps: a few patches already show every architecture in its share, so that it is no patient's style.
    style.architecture = ARCHITECTURES[np.searchsorted(np.cumsum(SHARES)[:-1], (style.turn + patch * 0.618034) % 1)]
    anatomy = draw_anatomy(style, rng)
    for name, change in ATYPIA.items():
        setattr(style, name, getattr(style, name) * math.exp(change * ARCHITECTURES.index(anatomy.kind) / 3))
    glass = np.clip(style.white + style.warmth * np.float32([0.5, 0.1, -0.5]), 0, 1)
    vectors = np.array([[style.h_red, style.h_green, style.h_blue], [style.e_red, style.e_green, style.e_blue]])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    stain_vectors = (vectors * [[style.h_strength], [style.e_strength]] * style.thickness).astype(np.float32)
    stains = draw_stains(anatomy, style, rng)
    image = transmit(np.moveaxis(stains, 0, -1), stain_vectors, glass)
    return _photograph(image, image_size, style, rng), _bin_mask(anatomy.classes, image_size), anatomy.kind


def transmit(stains: np.ndarray, stain_vectors: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Transmitted light, float (..., 3) of 0 to 1, by Beer–Lambert: glass · exp(−stains @ stain_vectors).

    Args:
        stains: (..., 2) amounts of haematoxylin and eosin, 0 or more.
        stain_vectors: (2, 3) optical density (natural logarithm) in R, G, B of one unit of each stain.
        glass: (3,) light through empty glass, 0 to 1.

    >>> vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    >>> transmit(np.array([0.0, 0.0]), vectors, np.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """
    return glass * np.exp(-stains @ stain_vectors)


def _generator(seed: int, population: str, patient: int, stage: int) -> np.random.Generator:
    """Random numbers of one (seed, population, patient, stage); stage 0 is the patient, 1 + i its patch i."""
    key = (sorted(RANGES).index(population), patient, stage)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _patient_style(seed: int, patient: int, population: str) -> SimpleNamespace:
    """All values of `RANGES` for one patient, and `turn`, 0 to 1, where its sequence of architectures begins."""
    rng = _generator(seed, population, patient, 0)
    ranges = RANGES["source"] | RANGES[population]
    style = SimpleNamespace(**{name: rng.uniform(*bounds) for name, bounds in ranges.items()})
    style.turn = rng.uniform()
    return style


def _photograph(image: np.ndarray, image_size: int, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """What the scanner stores, uint8 (image_size, image_size, 3), of light (CANVAS, CANVAS, 3)."""
    image = resample(image, _lens(image_size, round(style.blur, 2)))
    y, x = (np.mgrid[:image_size, :image_size].astype(np.float32) + 0.5) / image_size - 0.5
    slope = x * math.cos(style.shading_angle) + y * math.sin(style.shading_angle)
    image = image * (1 - style.shading * (slope + 1.2 * (x**2 + y**2)))[..., None]
    image = image + style.noise * rng.standard_normal(image.shape, np.float32)
    return to_bytes(image)


def _bin_mask(classes: np.ndarray, image_size: int) -> np.ndarray:
    """Class that covers most of each pixel, uint8 (image_size, image_size)."""
    lens = binning(image_size)
    return np.argmax([lens @ (classes == k) @ lens.T for k in range(len(CLASSES))], axis=0).astype(np.uint8)


@lru_cache(maxsize=256)
def _lens(image_size: int, sigma: float) -> np.ndarray:
    """Matrix (image_size, CANVAS) that blurs by a Gaussian of `sigma` µm, keeps the light, and bins."""
    distance = np.subtract.outer(np.arange(CANVAS), np.arange(CANVAS)) * (FIELD / CANVAS)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    weights[weights < 1e-9] = 0  # denormal numbers would make the product five times slower
    return binning(image_size) @ (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
