"""Embedded histology: procedural H&E-like tissue whose style is a patient's and whose layout is a patch's.

A patch shows a field of 128 µm. It is drawn once at 0.5 µm per pixel and then seen through an optical system
that blurs and bins it to `image_size`, so a patch is the same tissue at every size. Three steps:

1. anatomy: glands (nearest warped seed points) cut a lumen out of epithelium out of stroma, cells are placed
   along the distance to the gland's border;
2. stains: every point holds some haematoxylin h and some eosin e (no unit, 1 = a typical nucleus or fibre);
3. optics: Beer–Lambert, I = I_0 exp(−(h·H + e·E)), then blur, binning, uneven light and sensor noise.

Everything a stain, a scanner or a disease fixes for a whole patient is drawn once from `RANGES`.
"""

import math
from functools import lru_cache
from types import SimpleNamespace

import datasets
import numpy as np
from scipy import ndimage

from sedm.data.patches import from_arrays

CLASSES = ("stroma", "epithelium", "lumen")
STROMA, EPITHELIUM, LUMEN = range(3)

FIELD = 128  # µm, side of the field of view
CANVAS = 256  # px, side of the drawing: 0.5 µm per pixel
MARGIN = 24  # µm, anatomy continues this far outside the field, so that borders cut glands and cells
WINDOW = 14  # px, half side of the window a cell is drawn in
NUCLEUS, GOBLET, FIBROBLAST, LYMPHOCYTE, RED_CELL = range(5)  # kinds of cells
ARCHITECTURES = ("tubular", "crowded", "cribriform", "solid")

# fmt: off
# What differs between patients: (lowest, highest), drawn uniformly and once per patient.
RANGES = {
    "source": {
        # Stain vectors before normalisation (R, G, B), Ruifrok & Johnston 2001 to Macenko 2009.
        "h_red": (0.56, 0.72), "h_green": (0.66, 0.76), "h_blue": (0.22, 0.42),
        "e_red": (0.04, 0.22), "e_green": (0.80, 1.00), "e_blue": (0.22, 0.58),
        "h_strength": (0.80, 1.30), "e_strength": (0.50, 1.40),  # optical density per unit of stain
        "white": (0.90, 0.98), "warmth": (-0.03, 0.05),  # empty glass of 1; red minus blue of it
        "blur": (0.35, 0.85),  # µm, standard deviation of the optical blur
        "shading": (0.00, 0.10), "shading_angle": (0.0, 6.28),  # relative fall of the light across; radian
        "noise": (0.002, 0.010),  # standard deviation of the sensor's noise, of 1
        "gland": (58.0, 84.0), "stretch": (1.0, 1.8),  # µm between gland centres; elongation
        "height": (9.5, 14.5),  # µm, epithelium from base to lumen
        "nucleus": (2.3, 3.1), "elongation": (1.15, 2.1),  # µm, short half axis; long over short
        "pleomorphism": (0.04, 0.20), "spacing": (1.35, 1.8),  # spread of log size; gap in short half axes
        "stratification": (0.12, 0.40),  # how far nuclei leave the base, of the height
        "chromatin": (0.05, 0.30), "vesicular": (0.0, 0.6), "hyperchromasia": (0.8, 1.25),
        "cytoplasm_e": (0.30, 0.70), "cytoplasm_h": (0.14, 0.46), "apical_pallor": (0.0, 0.6),
        "goblets": (-0.6, 0.6), "secretion": (0.0, 1.0),  # share of goblet cells where positive; filled lumen
        "fibre": (1.2, 2.8), "fibre_contrast": (0.4, 1.1), "waves": (0.8, 3.2),  # µm; of 1; µm amplitude
        "collagen": (0.40, 1.05), "oedema": (0.0, 0.32),  # eosin of fibres; share of clefts between them
        "fibroblasts": (0.2, 0.7), "lymphocytes": (0.0, 0.35), "bleeding": (-0.3, 0.6),
    },
    "shifted": {  # an over-stained, aged, out-of-focus archive: only what differs from the source
        "h_red": (0.72, 0.86), "h_green": (0.55, 0.64), "h_blue": (0.10, 0.22),
        "e_red": (0.18, 0.34), "e_green": (0.62, 0.78), "e_blue": (0.55, 0.80),
        "h_strength": (1.35, 1.9), "e_strength": (0.35, 0.65),
        "white": (0.82, 0.90), "warmth": (0.06, 0.16),
        "blur": (0.95, 1.5), "shading": (0.14, 0.28), "cytoplasm_h": (0.30, 0.55),
    },
}
# fmt: on
# What differs between patches of a patient: standard deviation of the logarithm.
PATCH_SPREAD = {"h_strength": 0.10, "e_strength": 0.08, "height": 0.08, "gland": 0.10, "nucleus": 0.03}


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
    "patient-007") and `population`. A row is a pure function of (seed, population, patient number, patch
    number, image_size): asking for more patients or patches never changes the others.

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
    images, masks, groups = [], [], []
    for number in range(first_patient, first_patient + n_patients):
        for patch in range(patches_per_patient):
            image, mask = draw_patch(seed, number, patch, image_size, population)
            images.append(image)
            masks.append(mask)
            groups.append(f"patient-{number:03d}")
    return from_arrays(np.stack(images), np.stack(masks), groups, population=[population] * len(groups))


def draw_patch(seed: int, patient: int, patch: int, image_size: int, population: str = "source"):
    """One image, uint8 (image_size, image_size, 3), and its mask, uint8 (image_size, image_size).

    >>> image, mask = draw_patch(seed=0, patient=3, patch=1, image_size=64)
    >>> image.shape, mask.shape, int(mask.max()) < len(CLASSES)
    ((64, 64, 3), (64, 64), True)
    """
    style = _patient_style(seed, patient, population)
    rng = _generator(seed, population, patient, 1 + patch)
    for name, spread in PATCH_SPREAD.items():
        setattr(style, name, getattr(style, name) * math.exp(spread * rng.standard_normal()))
    stain_vectors = style.unit_vectors * np.float32([[style.h_strength], [style.e_strength]])
    anatomy = _draw_anatomy(style, rng)
    stains = _stain_background(anatomy, style, rng)
    _paint_cells(stains, _place_cells(anatomy, style, rng), style, rng)
    stains = stains[:, WINDOW:-WINDOW, WINDOW:-WINDOW]
    image = transmit(np.moveaxis(stains, 0, -1), stain_vectors, style.glass)
    return _photograph(image, image_size, style, rng), _bin_mask(anatomy.classes, image_size)


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
    """All values of `RANGES` for one patient, `unit_vectors` (2, 3), `glass` (3,), `architectures` (4,)."""
    rng = _generator(seed, population, patient, 0)
    ranges = RANGES["source"] | RANGES[population]
    style = SimpleNamespace(**{name: rng.uniform(*bounds) for name, bounds in ranges.items()})
    vectors = np.array([[style.h_red, style.h_green, style.h_blue], [style.e_red, style.e_green, style.e_blue]])
    style.unit_vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    style.glass = np.clip(style.white + style.warmth * np.float32([0.5, 0.1, -0.5]), 0, 1)
    style.architectures = rng.dirichlet((1.2, 0.7, 0.4, 0.3))
    return style


# ---------------------------------------------------------------------------------------------- anatomy


def _draw_anatomy(style: SimpleNamespace, rng: np.random.Generator) -> SimpleNamespace:
    """Geometry of a patch: distances in µm on a 1 µm grid with margin, and `classes` uint8 on the canvas.

    `inside` is the distance to the gland's border from within, `outside` from the stroma, `lumen` to lumen.
    """
    kind = ARCHITECTURES[rng.choice(4, p=style.architectures)]
    side = FIELD + 2 * MARGIN
    pitch = style.gland * {"tubular": 1.0, "crowded": 0.85, "cribriform": 1.5, "solid": 1.1}[kind]
    best, second = _nearest_glands(pitch, style, rng)
    septum = {"tubular": 0.2, "crowded": 0.12, "cribriform": 0.2, "solid": 0.15}[kind]
    field = slice(MARGIN, -MARGIN)
    shape = np.where(best - second > septum, best, -9.0)
    share = 0.28 + 0.48 * rng.beta(2.2, 1.9) + (0.06 if kind == "crowded" else 0.0)
    gland = shape > max(np.quantile(shape[field, field], 1 - share), -8.0)
    gland = ndimage.gaussian_filter(gland.astype(np.float32), 3.0) > 0.5  # rounds off, drops crumbs
    inside = _distance(gland)
    outside = _distance(~gland)

    # How much of the way to the lumen a point has gone: above 1 it is lumen.
    if kind == "cribriform":
        holes = _noise(rng, side, 13.0)
        progress = np.minimum(inside / 9.0, 1 + holes - 0.8)
    else:
        depth = style.height * (1.5 if kind == "solid" else 1.0)
        progress = inside / (depth * np.exp(0.16 * _noise(rng, side, 22.0) + 0.06 * _noise(rng, side, 6.0)))
    within = progress[field, field]
    # Nearer to the usual share: too little would starve the class, too much the epithelium.
    wanted = np.clip(0.6 * (within > 1).mean() + 0.05, 0.06, 0.20)
    progress = progress / max(np.quantile(within, 1 - wanted), 0.3)
    is_lumen = (progress > 1) & (inside > 2.5)
    lumen = _distance(~is_lumen)

    up = _upsampling(side)
    border = up @ (inside - outside) @ up.T
    empty = up @ ndimage.gaussian_filter(is_lumen.astype(np.float32), 0.8) @ up.T
    classes = np.where(border <= 0, STROMA, np.where(empty > 0.5, LUMEN, EPITHELIUM)).astype(np.uint8)
    return SimpleNamespace(kind=kind, inside=inside, outside=outside, lumen=lumen, classes=classes)


def _distance(within: np.ndarray) -> np.ndarray:
    """Distance to the nearest point outside, µm, float32 on the 1 µm grid; far away where there is none."""
    if within.all():
        return np.full(within.shape, 99, dtype=np.float32)
    return ndimage.distance_transform_edt(within).astype(np.float32)


def _nearest_glands(pitch: float, style: SimpleNamespace, rng: np.random.Generator):
    """Closeness to the nearest and the second nearest gland centre, 1 at the centre, each (side, side)."""
    side = FIELD + 2 * MARGIN
    y, x = np.mgrid[:side, :side].astype(np.float32) - side / 2
    x = x + 0.10 * pitch * _noise(rng, side, 0.8 * pitch) + 0.8 * _noise(rng, side, 11.0)
    y = y + 0.10 * pitch * _noise(rng, side, 0.8 * pitch) + 0.8 * _noise(rng, side, 11.0)
    angle, stretch = rng.uniform(0, np.pi), math.sqrt(style.stretch)
    u = (x * math.cos(angle) + y * math.sin(angle)) / stretch
    v = (y * math.cos(angle) - x * math.sin(angle)) * stretch
    n = math.ceil(0.85 * side / pitch)
    shift_u, shift_v = rng.uniform(-0.5, 0.5) * pitch, rng.uniform(-0.5, 0.5) * pitch
    best, second = np.full_like(u, -9), np.full_like(u, -9)
    for i in range(-n, n + 1):
        for j in range(-n, n + 1):
            centre_u = (j + 0.5 * (i % 2) + 0.13 * rng.standard_normal()) * pitch + shift_u
            centre_v = (0.87 * i + 0.13 * rng.standard_normal()) * pitch + shift_v
            radius = pitch / 2 * math.exp(0.18 * rng.standard_normal())
            if math.hypot(centre_u * stretch, centre_v / stretch) > 0.5 * FIELD * 1.42 + 2 * radius:
                continue  # too far away to be seen
            near = 1 - np.sqrt((u - centre_u) ** 2 + (v - centre_v) ** 2) / radius
            second = np.maximum(second, np.minimum(best, near))
            best = np.maximum(best, near)
    return best, second


# ------------------------------------------------------------------------------------------------ cells


def _place_cells(anatomy: SimpleNamespace, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Cells in painting order, (n, 9): x, y, half axes (px of the padded canvas), angle, h, e, kind, bend.

    Candidates are taken in order of preference and kept where no earlier cell is too near (dart throwing), so
    that epithelial nuclei fill the base of the gland first and climb only as far as the patient stratifies.
    """
    side = FIELD + 2 * MARGIN
    n = 2600
    x, y = rng.uniform(MARGIN - 7, side - MARGIN + 7, (2, n))
    at = y.astype(int), x.astype(int)
    inside, outside, lumen = anatomy.inside[at], anatomy.outside[at], anatomy.lumen[at]
    height = inside / (inside + np.minimum(lumen, 3 * style.height))
    across = np.arctan2(*(g[at] for g in np.gradient(ndimage.gaussian_filter(anatomy.inside - anatomy.outside, 1.5))))
    chance, normal = rng.uniform(size=n), rng.standard_normal((4, n))
    short = style.nucleus * np.exp(style.pleomorphism * normal[0])
    kinds = np.where(inside > 0, NUCLEUS, FIBROBLAST)
    cluster = _noise(rng, side, 18.0)[at]
    kinds = np.where((inside == 0) & (chance < style.lymphocytes * (0.35 + 0.65 * (cluster > 0.6))), LYMPHOCYTE, kinds)
    kinds = np.where((kinds == NUCLEUS) & (height > 0.5) & (chance < style.goblets * 0.4), GOBLET, kinds)
    pool = rng.uniform(0.2, 0.8, 2) * FIELD + MARGIN
    near_pool = np.hypot(x - pool[0], y - pool[1]) < 11
    kinds = np.where((kinds == FIBROBLAST) & near_pool & (rng.uniform() < style.bleeding), RED_CELL, kinds)

    climb = style.stratification * (3 if anatomy.kind in ("cribriform", "solid") else 1)
    order = np.abs(height - 0.30) / climb + 0.5 * chance
    order = np.where(kinds == NUCLEUS, order, np.where(kinds == GOBLET, -1, 2 * chance - 0.5 * (kinds == RED_CELL)))
    limit = {NUCLEUS: 1.5, GOBLET: 9, FIBROBLAST: 2 * style.fibroblasts, LYMPHOCYTE: 9, RED_CELL: 9}
    fits = (lumen > 2.5) & np.where(inside > 0, inside > 0.8 * short, outside > 1.2)
    fits &= order < np.choose(kinds, [limit[k] for k in range(5)])

    # By kind: half axes and distance to the next cell in µm, haematoxylin, eosin.
    by_kind = {
        NUCLEUS: (np.minimum(short * style.elongation, 6.2), short, short * style.spacing, style.hyperchromasia, 0.25),
        GOBLET: (4.6 + 0.5 * normal[0], 3.7 + 0.4 * normal[1], 6.5, 0.24, 0.10),
        FIBROBLAST: (4.4 + 0.8 * normal[0], 1.05 + 0.15 * normal[1], 7.0, 0.85, 0.4),
        LYMPHOCYTE: (2.1 + 0.15 * normal[0], 2.0 + 0.15 * normal[0], 4.8, 1.2, 0.1),
        RED_CELL: (2.7 + 0.2 * normal[0], 2.4 + 0.2 * normal[1], 4.6, 0.0, 1.5),
    }
    a, b, gap, h, e = (np.choose(kinds, [by_kind[kind][i] for kind in range(5)]) for i in range(5))
    turn = np.where(kinds == FIBROBLAST, across + np.pi / 2, across) + 0.22 * normal[2]
    h = h * np.exp(0.12 * normal[3] * (kinds != GOBLET))

    kept, taken = [], np.zeros((2 * side, 2 * side), dtype=bool)
    for i in np.argsort(order):
        if not fits[i] or taken[int(2 * y[i]), int(2 * x[i])]:
            continue
        reach = round(2 * gap[i])
        top, left = int(2 * y[i]) - reach, int(2 * x[i]) - reach
        taken[top : top + 2 * reach + 1, left : left + 2 * reach + 1] |= _disc(reach)
        kept.append(i)
    # Vacuoles and red cells lie under nuclei, so that no nucleus is cut.
    kept = np.array(sorted(kept, key=lambda i: kinds[i] not in (GOBLET, RED_CELL)), dtype=int)
    scale = CANVAS / FIELD
    columns = (
        (x - MARGIN) * scale + WINDOW,
        (y - MARGIN) * scale + WINDOW,
        a * scale,
        b * scale,
        turn,
        h,
        e,
        kinds,
    )
    cells = np.stack([*columns, 0.03 * normal[1] * (kinds == FIBROBLAST)], axis=1)[kept].astype(np.float32)
    seen = ((cells[:, :2] >= WINDOW) & (cells[:, :2] < CANVAS + WINDOW)).all(axis=1)
    return cells[seen]


def _paint_cells(stains: np.ndarray, cells: np.ndarray, style: SimpleNamespace, rng: np.random.Generator) -> None:
    """Puts each cell's own stains in place of those under it: float (2, h, w) of the padded canvas."""
    if not len(cells):
        return
    x, y, a, b, angle, h, e, kind, bend = (column[:, None, None] for column in cells.T)
    column = np.arange(-WINDOW, WINDOW + 1, dtype=np.float32)
    row = column[:, None]
    dx, dy = column - (x - np.floor(x)), row - (y - np.floor(y))
    along, off = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    off += bend * along**2
    square = (along / a) ** 2 + (off / b) ** 2
    square *= 1 + 0.13 * rng.standard_normal(x.shape, np.float32) * np.sign(along)  # no nucleus is an ellipse

    # Only pixels a cell reaches go on, as lists: `cell` is the row of `cells`, `pixel` the place.
    cell, *at = np.nonzero(square < (1 + 0.7 / b) ** 2)
    radius, along, off = np.sqrt(square[cell, *at]), along[cell, *at], off[cell, *at]
    a, b, h, e, kind = cells[cell][:, [2, 3, 5, 6, 7]].T
    left, top = np.floor(cells[:, :2]).astype(int).T - WINDOW
    pixel = (top[cell] + at[0]) * stains.shape[2] + left[cell] + at[1]
    cover = np.clip((1 - radius) * b / 1.3 + 0.5, 0, 1)
    grain = 1 + style.chromatin * _noise(rng, stains.shape[1], 2.2).ravel()[pixel]
    pale = style.vesicular * (kind == NUCLEUS)
    rim = 1 - pale * 0.6 * np.clip(1.1 - radius, 0, 1) + 0.35 * pale * np.clip(1 - ((radius - 0.85) / 0.25) ** 2, 0, 1)
    spot = (along - 0.2 * a) ** 2 + off**2
    rim += 0.7 * pale * np.clip(1 - spot / 6, 0, 1)  # nucleolus, seen where chromatin is open
    h = h * rim * np.where((kind == GOBLET) | (kind == RED_CELL), 1, grain)
    e = e * np.where(kind == RED_CELL, 0.75 + 0.3 * radius, 1)

    own, planes = np.stack([h, e]), stains.reshape(2, -1)
    ends = np.searchsorted(cell, np.arange(len(cells) + 1))
    for i in range(len(cells)):  # one after another, so that cells overlap instead of averaging
        part = slice(ends[i], ends[i + 1])
        under = planes[:, pixel[part]]
        planes[:, pixel[part]] = under + cover[part] * (own[:, part] - under)


# ----------------------------------------------------------------------------------------------- stains


def _stain_background(anatomy: SimpleNamespace, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Haematoxylin and eosin without cells, float (2, h, w) on the canvas padded by `WINDOW`."""
    side, size = FIELD + 2 * MARGIN, CANVAS
    up = _upsampling(side)
    inside, outside, lumen = (up @ d @ up.T for d in (anatomy.inside, anatomy.outside, anatomy.lumen))

    fibre = _fibres(outside, style, rng)
    cleft = np.clip((style.oedema + 0.13 * _noise(rng, size, 50.0) - fibre) / 0.12, 0, 1) * (style.oedema > 0.08)
    stroma_e = style.collagen * (1 + style.fibre_contrast * (fibre - 0.6)) * (1 - 0.85 * cleft)
    stroma_e = stroma_e + 0.18 * np.exp(-(((outside - 1.2) / 0.9) ** 2))  # basement membrane
    stroma_h = 0.10 * (1 - cleft) * (0.7 + 0.6 * fibre)

    height = inside / (inside + np.minimum(lumen, 3 * style.height) + 1e-6)
    granular = 1 + 0.10 * _noise(rng, size, 3.0) + 0.08 * _noise(rng, size, 12.0)
    pallor = 1 - style.apical_pallor * np.clip(height - 0.35, 0, 1)
    cell_e = style.cytoplasm_e * granular * pallor + 0.25 * np.exp(-((lumen / 1.2) ** 2))  # brush border
    cell_h = style.cytoplasm_h * granular * pallor

    wisps = np.clip(_noise(rng, size, 20.0) + 0.7 * _noise(rng, size, 7.0) + 1.6 * style.secretion - 1.2, 0, 1.5)
    mucin = wisps * np.clip(lumen * -1 + 1, 0, 1)
    lumen_e, lumen_h = 0.02 + 0.16 * mucin, 0.02 + 0.10 * mucin

    h = np.choose(anatomy.classes, (stroma_h, cell_h, lumen_h))
    e = np.choose(anatomy.classes, (stroma_e, cell_e, lumen_e))
    return np.pad(np.maximum(np.stack([h, e]), 0), ((0, 0), (WINDOW, WINDOW), (WINDOW, WINDOW)))


def _fibres(outside: np.ndarray, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Density of wavy collagen, float32 (CANVAS, CANVAS) of 0 to 1.3: noise stretched along bent lines."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) * (FIELD / CANVAS)
    angle = rng.uniform(0, np.pi)
    across = x * math.cos(angle) + y * math.sin(angle) + 9 * _noise(rng, CANVAS, 80.0)
    along = y * math.cos(angle) - x * math.sin(angle) + 9 * _noise(rng, CANVAS, 80.0)
    across = across + style.waves * np.sin(2 * np.pi * along / 26 + 2 * _noise(rng, CANVAS, 90.0))
    across = across + 22 * np.exp(-outside / 12)  # sheaths wrap around glands
    fine = _texture(across / style.fibre, along / 14, rng)
    bundles = _texture(across / 5, along / 30, rng)
    return np.clip(0.55 + 0.28 * fine + 0.28 * bundles, 0, 1.3)


def _texture(v: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0, variance 1 at the points (v, u), which changes over about 1."""
    sheet, finer = _texture_sheet(), 4
    corner = rng.integers(0, len(sheet), 2)
    row, column = (np.floor(finer * c).astype(np.int32) + int(o) for c, o in zip((v, u), corner, strict=True))
    return sheet[row % len(sheet), column % len(sheet)]


@lru_cache
def _texture_sheet() -> np.ndarray:
    """Periodic noise, float32 (512, 512), that changes over about 4 pixels; always the same."""
    white = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    smooth = ndimage.gaussian_filter(white, 3.2, mode="wrap")
    return smooth / smooth.std()


# ----------------------------------------------------------------------------------------------- optics


def _photograph(image: np.ndarray, image_size: int, style: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """What the scanner stores, uint8 (image_size, image_size, 3), of light (CANVAS, CANVAS, 3)."""
    lens = _lens(image_size, round(style.blur, 2))
    image = np.stack([lens @ np.ascontiguousarray(image[..., c]) @ lens.T for c in range(3)], axis=-1)
    y, x = (np.mgrid[:image_size, :image_size].astype(np.float32) + 0.5) / image_size - 0.5
    slope = x * math.cos(style.shading_angle) + y * math.sin(style.shading_angle)
    image = image * (1 - style.shading * (slope + 1.2 * (x**2 + y**2)))[..., None]
    image = image + style.noise * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _bin_mask(classes: np.ndarray, image_size: int) -> np.ndarray:
    """Class that covers most of each pixel, uint8 (image_size, image_size)."""
    lens = _binning(image_size)
    return np.argmax([lens @ (classes == k) @ lens.T for k in range(len(CLASSES))], axis=0).astype(np.uint8)


@lru_cache
def _binning(image_size: int) -> np.ndarray:
    """Matrix (image_size, CANVAS) of area averages from the canvas to the pixels."""
    edges = np.linspace(0, CANVAS, image_size + 1)
    left, right = (
        np.maximum(edges[:-1, None], np.arange(CANVAS)),
        np.minimum(edges[1:, None], np.arange(1, CANVAS + 1)),
    )
    return (np.clip(right - left, 0, None) * image_size / CANVAS).astype(np.float32)


@lru_cache(maxsize=256)
def _lens(image_size: int, sigma: float) -> np.ndarray:
    """Matrix (image_size, CANVAS) that blurs by a Gaussian of `sigma` µm, keeps the light, and bins."""
    distance = np.subtract.outer(np.arange(CANVAS), np.arange(CANVAS)) * (FIELD / CANVAS)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    weights[weights < 1e-9] = 0  # denormal numbers would make the product five times slower
    return _binning(image_size) @ (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache
def _upsampling(side: int) -> np.ndarray:
    """Matrix (CANVAS, side) of linear interpolation from the 1 µm grid with margin to the canvas."""
    at = (np.arange(CANVAS) + 0.5) * (FIELD / CANVAS) + MARGIN - 0.5
    return np.clip(1 - np.abs(at[:, None] - np.arange(side)), 0, None).astype(np.float32)


@lru_cache
def _disc(reach: int) -> np.ndarray:
    """Boolean disc (2 * reach + 1, 2 * reach + 1)."""
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x**2 + y**2 <= reach**2


@lru_cache(maxsize=64)
def _splines(size: int, length: float) -> np.ndarray:
    """Matrix (size, m) of cubic B-splines `length` pixels apart, white noise giving variance 1."""
    at = np.arange(size)[:, None] / length + 1 - np.arange(int(size / length) + 4)
    d = np.abs(at)
    weights = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0))
    return (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)


def _noise(rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """Smooth noise (size, size), mean 0, variance 1, that changes over about `length` pixels."""
    splines = _splines(size, round(max(length / 2, 1.0), 1))
    return splines @ rng.standard_normal((splines.shape[1],) * 2, np.float32) @ splines.T
