"""Embedded histology: procedural H&E-like tissue whose style is a patient's and whose layout is a patch's.

A patch shows a field of 128 µm. It is drawn once at 0.5 µm per pixel and then seen through an optical system
that blurs and bins it to `image_size`, so a patch is the same tissue at every size. Three steps:

1. `anatomy`: glands (nearest warped seed points) cut a lumen out of epithelium out of stroma, cells are placed
   along the distance to the gland's border;
2. `tissue_stains`: every point holds some haematoxylin h and some eosin e (no unit, 1 = a typical nucleus or fibre);
3. optics, here: Beer–Lambert, I = I_0 exp(−(h·H + e·E)), then blur, binning, uneven light and sensor noise.

Everything a stain, a scanner or a disease fixes for a whole patient is drawn once (`patients`).
"""

import math
from functools import lru_cache

import datasets
import numpy as np

from sedm.data.drawn.anatomy import CLASSES, FIELD, draw_anatomy
from sedm.data.drawn.canvas import CANVAS, binning, check_request, draw_all, resample, to_bytes
from sedm.data.drawn.patients import RANGES, TissueStyle, generator, patch_style, patient_style
from sedm.data.drawn.tissue_stains import draw_stains
from sedm.data.patch_table import from_arrays


def make_tissue(
    n_patients: int,
    patches_per_patient: int,
    *,
    image_size: int = 64,
    seed: int = 0,
    first_patient: int = 0,
    population: str = "source",
) -> datasets.Dataset:
    """Draw a patch table of tissue, `n_patients * patches_per_patient` rows ordered by patient.

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
    check_request(n_patients, patches_per_patient, image_size, seed, first_patient)
    if population not in RANGES:
        raise ValueError(f"population={population!r}; choose one of {sorted(RANGES)}")
    numbers = [(p, i) for p in range(first_patient, first_patient + n_patients) for i in range(patches_per_patient)]
    drawn = draw_all(_draw_row, [(seed, *number, image_size, population) for number in numbers], name="tissue")
    images, masks, architectures = zip(*drawn, strict=True)
    groups = [f"patient-{patient:03d}" for patient, _ in numbers]
    columns = {"population": [population] * len(groups), "architecture": architectures}
    return from_arrays(np.stack(images), np.stack(masks), groups, **columns)


def draw_patch(seed: int, patient: int, patch: int, image_size: int, population: str = "source"):
    """Draw one image, uint8 (image_size, image_size, 3), and its mask, uint8 (image_size, image_size).

    >>> image, mask = draw_patch(seed=0, patient=3, patch=1, image_size=64)
    >>> image.shape, mask.shape, int(mask.max()) < len(CLASSES)
    ((64, 64, 3), (64, 64), True)
    """
    return _draw_row(seed, patient, patch, image_size, population)[:2]


def _draw_row(seed: int, patient: int, patch: int, image_size: int, population: str):
    """Draw an image, its mask and the architecture of the patch."""
    rng = generator(seed, population, patient, 1 + patch)
    style = patch_style(patient_style(seed, patient, population), patch, rng)
    anatomy = draw_anatomy(style, rng)
    glass = np.clip(style.white + style.warmth * np.float32([0.5, 0.1, -0.5]), 0, 1)
    vectors = np.array([[style.h_red, style.h_green, style.h_blue], [style.e_red, style.e_green, style.e_blue]])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    stain_vectors = (vectors * [[style.h_strength], [style.e_strength]] * style.thickness).astype(np.float32)
    stains = draw_stains(anatomy, style, rng)
    image = transmit(np.moveaxis(stains, 0, -1), stain_vectors, glass)
    return _photograph(image, image_size, style, rng), _bin_mask(anatomy.classes, image_size), style.architecture


def transmit(stains: np.ndarray, stain_vectors: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Compute the transmitted light, float (..., 3) of 0 to 1, by Beer–Lambert: glass · exp(−stains @ stain_vectors).

    Args:
        stains: (..., 2) amounts of haematoxylin and eosin, 0 or more.
        stain_vectors: (2, 3) optical density (natural logarithm) in R, G, B of one unit of each stain.
        glass: (3,) light through empty glass, 0 to 1.

    >>> vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    >>> transmit(np.array([0.0, 0.0]), vectors, np.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """
    return glass * np.exp(-stains @ stain_vectors)


def _photograph(image: np.ndarray, image_size: int, style: TissueStyle, rng: np.random.Generator) -> np.ndarray:
    """Scan light (CANVAS, CANVAS, 3) of 0 to 1 through lens and sensor: uint8 (image_size, image_size, 3)."""
    image = resample(image, _lens(image_size, round(style.blur, 2)))
    y, x = (np.mgrid[:image_size, :image_size].astype(np.float32) + 0.5) / image_size - 0.5
    slope = x * math.cos(style.shading_angle) + y * math.sin(style.shading_angle)
    image = image * (1 - style.shading * (slope + 1.2 * (x**2 + y**2)))[..., None]
    image = image + style.noise * rng.standard_normal(image.shape, np.float32)
    return to_bytes(image)


def _bin_mask(classes: np.ndarray, image_size: int) -> np.ndarray:
    """Find the class that covers most of each pixel, uint8 (image_size, image_size)."""
    lens = binning(image_size)
    return np.argmax([lens @ (classes == k) @ lens.T for k in range(len(CLASSES))], axis=0).astype(np.uint8)


@lru_cache(maxsize=256)
def _lens(image_size: int, sigma: float) -> np.ndarray:
    """Make the matrix (image_size, CANVAS) that blurs by a Gaussian of `sigma` µm, keeps the light, and bins."""
    distance = np.subtract.outer(np.arange(CANVAS), np.arange(CANVAS)) * (FIELD / CANVAS)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    weights[weights < 1e-9] = 0  # denormal numbers would make the product five times slower
    return binning(image_size) @ (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
