"""The sections on a slide: which ground is tissue, and what the rest is.

A slide is judged in squares, the cells, by how their colour differs from that of the glass. Densities are optical
densities, log10 of glass over colour: they are proportional to the amount of dye (Beer–Lambert), so one threshold does
for strong and weak light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8
from scipy import ndimage

from sedm.data.slides.slide import TOLERANCE, Slide

N_PARTS = 4  # parts of a cell, each way, that are told from ink and black one by one
BLOCK = 32  # cells a side read at once, so that a slide without coarse levels fits into memory
WHITE = (255, 255, 255)
SMALLEST_SHARE = 0.01  # of a slide: a piece of so much is never a speck
SEAM = 2  # parts around ink and black in which they mix with what is beside them
MIN_GLASS = 0.01  # of what was scanned: from less it is not known what glass looks like
MIN_BRIGHTER = 0.05  # of what may be glass: less is stray light

# what may be glass: bright, nearly grey, not pink (dyes of tissue absorb green most), and smooth
GLASS_LIGHT = 180
GLASS_SATURATION = 0.12
GLASS_GREEN = 0.98  # at least so much of the weaker of red and blue
GLASS_GRAIN = 4.0  # grey levels by which its parts differ, as a standard deviation

# densities of ink: green and pale blue absorb red far more than green, strong blue absorbs red and hardly blue, red,
# orange and yellow absorb blue and hardly red, black absorbs all alike; violet cannot be told from haematoxylin
PALE_INK_RED, PALE_INK_RATIO = 0.1, 1.4
STRONG_INK = 0.6
BLUE_INK_BLUE, WARM_INK_RED = 0.3, 0.15  # the former of the density of red
BLACK_DENSITY, BLACK_HUE = 0.45, 0.15
DARKEST = {"pen": 10, "black": 20}  # all that is darker is equally dark: the noise of black has no hue


class Ground(IntEnum):
    """What a cell of a slide shows."""

    GLASS = 0
    TISSUE = 1
    SPECK = 2  # as tissue, but too small
    PEN = 3  # coloured ink
    BLACK = 4  # black ink, or black filled in around a scan
    LEFT_OUT = 5  # never scanned


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where a slide carries tissue: ``cells[row, column]`` is a square of ``cell_microns`` a side.

    Attributes:
        ground: what each cell shows, a :class:`Ground`; glass where it is no tissue, unless told.
        glass: the colour of empty glass, if there is any.
        settings: arguments that :func:`find_tissue` was called with, by their names.
    """

    cells: Bool[np.ndarray, "rows columns"]
    cell_microns: float
    ground: UInt8[np.ndarray, "rows columns"] | None = None
    glass: tuple[int, int, int] | None = None
    settings: Mapping[str, float | bool] = field(default_factory=dict)

    def __post_init__(self):
        if self.ground is None:
            object.__setattr__(self, "ground", self.cells.astype(np.uint8))  # TISSUE is 1, GLASS is 0

    def at(self, x_microns: Num[np.ndarray, "*xs"], y_microns: Num[np.ndarray, "*ys"]) -> Bool[np.ndarray, "*places"]:
        """Tell whether there is tissue at each place, of the shape x and y broadcast to; beyond the last cell its value
        goes on.

        >>> Tissue(np.array([[False, True]]), cell_microns=10.0).at(np.array([5.0, 15.0, 21.0]), np.zeros(3)).tolist()
        [False, True, True]
        """
        return self.ground_at(x_microns, y_microns) == Ground.TISSUE

    def ground_at(
        self, x_microns: Num[np.ndarray, "*xs"], y_microns: Num[np.ndarray, "*ys"]
    ) -> UInt8[np.ndarray, "*places"]:
        """Look up what the slide shows at each place, a :class:`Ground`; as :meth:`at`."""
        row, column = (np.floor(place / self.cell_microns).astype(int) for place in (y_microns, x_microns))
        height, width = self.cells.shape
        return self.ground[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]

    @property
    def shares(self) -> dict[str, float]:
        """Measure the share of the slide that each kind of ground covers, of those that are there.

        >>> Tissue(np.array([[False, True]]), cell_microns=10.0).shares
        {'glass': 0.5, 'tissue': 0.5}
        """
        shares = np.bincount(self.ground.ravel(), minlength=len(Ground)) / self.ground.size
        return {kind.name.lower().replace("_", " "): float(shares[kind]) for kind in Ground if shares[kind] > 0}

    def __str__(self) -> str:
        """Say what was found and what was left out.

        >>> str(Tissue(np.array([[False, True, True]]), cell_microns=10.0, glass=(245, 243, 246)))
        '33.3 % glass (245, 243, 246), 66.7 % tissue'
        """
        words = [f"{100 * share:.1f} % {kind}" for kind, share in self.shares.items()]
        if "glass" in self.shares and self.glass is not None:
            words[0] += f" {self.glass}"
        if self.settings and self.glass is None and self.cells.any():
            words.append("no glass found (where there is some, give its colour by glass)")
        return ", ".join(words)

    @property
    def advice(self) -> str:
        """Say which settings of :func:`find_tissue` find more, and what they were."""
        density, colour, area = (
            f"{name}={self.settings[name]:g}" if name in self.settings else name
            for name in ("min_density", "min_colour", "min_area_mm2")
        )
        sentence = f"lower {density} or {colour} for paler tissue, {area} for smaller pieces"
        specks, n_specks = ndimage.label(self.ground == Ground.SPECK)
        if n_specks:
            largest = np.bincount(specks.ravel())[1:].max() * (self.cell_microns / 1000) ** 2
            sentence += f" (the largest speck has {largest:.2g} mm²)"
        if Ground.PEN in self.ground:
            sentence += "; or set leave_out_pen=False for blue and green stains"
        return sentence


def find_tissue(
    slide: Slide,
    cell_microns: float = 32.0,
    min_area_mm2: float = 0.02,
    min_density: float = 0.04,
    min_colour: float = 0.012,
    leave_out_pen: bool = True,
    glass: tuple[float, float, float] | None = None,
) -> Tissue:
    """Find the tissue of a slide: what is darker than its glass, or of another colour, without ink, black and specks.

    Ink, black and ground that was never scanned are cut out first, with a seam around them, and what is left of each
    cell is compared with the glass. Whether a bright, grey slide has glass is seen from its brightest grey; on one
    that is pink from edge to edge, all is tissue.

    Args:
        cell_microns: side of a cell; the strip at the right and lower edge that fills no whole cell is left out.
        min_area_mm2: connected pieces of less are specks of dirt, unless they make up 1 % of a small slide.
        min_density: mean optical density, above that of glass, from which a cell is tissue whatever its colour.
        min_colour: difference between the optical densities of two channels, above that of glass, from which a cell
            is tissue however pale.
        leave_out_pen: whether ground of a colour that ink has, and no dye of H&E or DAB, is left out; stains of these
            colours (Masson's trichrome, Alcian blue) need False, and so does much bright blood: where red ink and
            blood are equally red, nothing tells them apart.
        glass: its colour, red, green and blue, where it is not found.

    >>> import tempfile, tifffile
    >>> picture = np.full((128, 256, 3), 245, np.uint8)
    >>> picture[:, :64] = (200, 120, 180)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tifffile.imwrite(f"{folder}/a.tif", picture, photometric="rgb", tile=(64, 64))
    ...     with Slide(f"{folder}/a.tif", microns_per_pixel=2.0) as slide:
    ...         print(find_tissue(slide))
    75.0 % glass (245, 245, 245), 25.0 % tissue
    """
    cell_microns = min(cell_microns, *slide.size_microns)
    rows, columns = (int(side / cell_microns) for side in slide.size_microns[::-1])
    n_parts = max(min(int(cell_microns * TOLERANCE / slide.microns_per_pixel), N_PARTS), 1)
    parts = _read_parts(slide, rows, columns, cell_microns, n_parts)
    part_microns = cell_microns / n_parts
    left_out = ~slide.holds(
        np.arange(columns * n_parts) * part_microns,
        np.arange(rows * n_parts)[:, None] * part_microns,
        part_microns,
        part_microns,
    )
    if glass is None:
        filled = (parts == WHITE).all(2)  # around the scanned areas, or overexposed; says nothing about the glass
        counted = ~ndimage.binary_dilation(filled | left_out, iterations=SEAM)
        glass = find_glass(_mean_of_cells(parts, counted, n_parts), _grain_of_cells(parts, n_parts))
    white = WHITE if glass is None else glass
    pen, black = (ink & ~left_out for ink in _ink(parts, white))
    pen &= leave_out_pen
    marked = pen | black | left_out
    clean = ~ndimage.binary_dilation(marked, iterations=SEAM)
    colours = _mean_of_cells(parts, clean, n_parts)
    colours = np.where(np.isnan(colours), _mean_of_cells(parts, ~marked, n_parts), colours)
    density = _density(colours, white)
    ground = np.full((rows, columns), Ground.GLASS, np.uint8)
    is_tissue = (density.mean(2) >= min_density) | ((np.ptp(density, axis=2) >= min_colour) & (density.mean(2) > 0))
    ground[is_tissue] = Ground.TISSUE
    for kind, parts_of_kind in ((Ground.PEN, pen), (Ground.BLACK, black), (Ground.LEFT_OUT, left_out)):
        ground[_share_of_cells(parts_of_kind, n_parts) >= 0.5] = kind
    smallest_mm2 = min(min_area_mm2, SMALLEST_SHARE * slide.size_microns[0] * slide.size_microns[1] / 1e6)
    pieces, n_pieces = ndimage.label(ground == Ground.TISSUE)
    is_small = np.bincount(pieces.ravel(), minlength=n_pieces + 1) * (cell_microns / 1000) ** 2 < smallest_mm2
    ground[is_small[pieces] & (pieces > 0)] = Ground.SPECK
    return Tissue(
        cells=ground == Ground.TISSUE,
        cell_microns=cell_microns,
        ground=ground,
        glass=None if glass is None else tuple(round(channel) for channel in glass),
        settings={
            "min_density": min_density,
            "min_colour": min_colour,
            "min_area_mm2": min_area_mm2,
            "leave_out_pen": leave_out_pen,
        },
    )


def find_glass(
    colours: Num[np.ndarray, "rows columns 3"], grain: Num[np.ndarray, "rows columns"]
) -> tuple[float, float, float] | None:
    """Find the colour of empty glass among the colours of a slide's cells, or None where too few cells may be glass.

    Glass is bright, nearly grey, not pink, and smooth; of what is, the brighter class by Otsu's threshold unless it is
    tiny, since a pale grey section may be as bright as a weak lamp makes glass elsewhere.

    Args:
        colours: of cells, 0 to 255; not a number where there is none.
        grain: standard deviation of the lightness within each cell.

    >>> colours = np.array([[[243.0, 241, 244], [243, 241, 244], [190, 190, 190], [235, 150, 190]]])
    >>> find_glass(colours, grain=np.zeros((1, 4)))
    (243.0, 241.0, 244.0)
    """
    high, low = colours.max(2), colours.min(2)
    may_be_glass = (
        (high >= GLASS_LIGHT)
        & (low >= (1 - GLASS_SATURATION) * high)
        & (colours[..., 1] >= GLASS_GREEN * colours[..., [0, 2]].min(2))
        & (grain <= GLASS_GRAIN)
    )
    if may_be_glass.sum() <= MIN_GLASS * np.isfinite(high).sum():
        return None
    candidates = colours[may_be_glass]
    lightness = np.round(candidates.mean(1)).astype(int)
    threshold = otsu_threshold(np.bincount(lightness, minlength=256))
    is_brighter = lightness > threshold
    if is_brighter.mean() >= MIN_BRIGHTER:
        candidates = candidates[is_brighter]
    return tuple(np.median(candidates, axis=0).tolist())


def otsu_threshold(histogram: Int[np.ndarray, " bins"]) -> int:
    """Find the bin up to which values form the lower of the two classes that lie furthest apart (Otsu 1979).

    Furthest apart: the variance between the classes is largest; the first bin where several tie.

    >>> otsu_threshold(np.array([5, 5, 0, 0, 5, 5]))
    1
    """
    counts = np.asarray(histogram, float)
    bins = np.arange(len(counts))
    below, moment = np.cumsum(counts), np.cumsum(counts * bins)
    above = below[-1] - below
    between = (moment * above - (moment[-1] - moment) * below) ** 2 / np.maximum(below * above, 1)
    return int(between.argmax())


def _read_parts(
    slide: Slide, rows: int, columns: int, cell_microns: float, n_parts: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Read the colours of all cells, each in ``n_parts`` by ``n_parts`` pixels."""
    parts = np.zeros((rows * n_parts, columns * n_parts, 3), np.uint8)
    for row in range(0, rows, BLOCK):
        for column in range(0, columns, BLOCK):
            height, width = min(BLOCK, rows - row) * n_parts, min(BLOCK, columns - column) * n_parts
            top, left = row * n_parts, column * n_parts
            parts[top : top + height, left : left + width] = slide.read(
                column * cell_microns, row * cell_microns, (height, width), cell_microns / n_parts, fill=WHITE[0]
            )
    return parts


def _ink(
    parts: UInt8[np.ndarray, "h w 3"], white: tuple[float, float, float]
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Find the pixels that are coloured ink, and those that are black."""
    pen, black = (np.zeros(parts.shape[:2], bool) for _ in range(2))
    for top in range(0, len(parts), BLOCK):  # densities of a whole slide at once would take gigabytes
        rows = slice(top, top + BLOCK)
        density = _density(np.maximum(parts[rows], DARKEST["black"]), white)
        high, low = density.max(2), density.min(2)
        red, green, blue = np.moveaxis(_density(np.maximum(parts[rows], DARKEST["pen"]), white), 2, 0)
        black[rows] = (low >= BLACK_DENSITY) & (high - low < BLACK_HUE * high)
        is_pale = (red >= PALE_INK_RED) & (red > PALE_INK_RATIO * green)
        is_blue = (red >= STRONG_INK) & (blue < BLUE_INK_BLUE * red)
        is_warm = (blue >= STRONG_INK) & (red < WARM_INK_RED)
        pen[rows] = (is_pale | is_blue | is_warm) & ~black[rows]
    return pen, black


def _density(colours: Num[np.ndarray, "h w 3"], white: tuple[float, float, float]) -> Float[np.ndarray, "h w 3"]:
    return np.log10(np.asarray(white, np.float32) / np.maximum(colours, 1))


def _share_of_cells(marks: Bool[np.ndarray, "h w"], n_parts: int) -> Float[np.ndarray, "rows columns"]:
    height, width = marks.shape
    return marks.reshape(height // n_parts, n_parts, width // n_parts, n_parts).mean((1, 3))


def _grain_of_cells(parts: UInt8[np.ndarray, "h w 3"], n_parts: int) -> Float[np.ndarray, "rows columns"]:
    """Measure the standard deviation of the lightness within each cell."""
    height, width, _ = parts.shape
    return parts.mean(2).reshape(height // n_parts, n_parts, width // n_parts, n_parts).std((1, 3))


def _mean_of_cells(
    parts: UInt8[np.ndarray, "h w 3"], counted: Bool[np.ndarray, "h w"], n_parts: int
) -> Float[np.ndarray, "rows columns 3"]:
    """Average the colours of the counted parts of each cell; not a number where there are none."""
    height, width = counted.shape
    cells = (height // n_parts, n_parts, width // n_parts, n_parts)
    totals = (parts * counted[..., None]).reshape(*cells, 3).sum((1, 3), dtype=float)
    n_counted = counted.reshape(cells).sum((1, 3))[..., None]
    return np.divide(totals, n_counted, out=np.full(totals.shape, np.nan), where=n_counted > 0)
