"""Masks as run lengths become polygons of exactly their pixels; texts and areas are those of pycocotools 2.0.11."""

import numpy as np
import pytest
import shapely
from scipy import ndimage

from sedm.data.mask_runs import decode_counts
from sedm.data.slides.polygons import Polygon, rasterise
from sedm.data.slides.run_lengths import outline_runs


def grid(height, width):
    return np.mgrid[:height, :width]


def annulus():
    row, column = grid(37, 53)
    squared = (column - 26) ** 2 + (row - 18) ** 2
    return (squared <= 256) & (squared > 49)


def chess():
    return grid(5, 7).sum(0) % 2 == 0


def pattern():
    row, column = grid(11, 13)
    return (row * 7919 + column * 104729) % 13 % 5 < 2


def long_runs():
    row, column = grid(300, 4)
    return column * 300 + row >= 700


CASES = [  # mask, COCO's text, area: pycocotools.mask.encode and area
    (
        annulus,
        "T<1o0:I4L4M2N2N2N2O0OCH07MO00020MO50KO70I070I070H0:0F080I070I070I150K130N00013I08=101N2N2N2N3L4L7FU;",
        648,
    ),
    (chess, "011000000000000000000000000000000000", 18),
    (
        pattern,
        "0120O000000000110O10N0000020O10OO00000000011000OO00000000011000OO00000000011000OO00000000011000OO"
        "000000000110O",
        66,
    ),
    (long_runs, "le0d?", 500),
]


def count_runs(mask):
    """The runs by hand, pixel for pixel down the columns."""
    counts = [0]
    inside = False
    for value in mask.T.ravel():
        if value != inside:
            counts.append(0)
            inside = value
        counts[-1] += 1
    return counts


def paint(pieces, shape):
    return rasterise([Polygon("SCC", piece) for piece in pieces], {"SCC": 1}, 0, 0, 1, shape)


@pytest.mark.parametrize(("make_mask", "text", "area"), CASES)
def test_compressed_texts_are_read_as_pycocotools_writes_them(make_mask, text, area):
    mask = make_mask()
    counts = decode_counts(text)
    assert counts == count_runs(mask)
    pieces = outline_runs(counts, height=len(mask))
    assert (paint(pieces, mask.shape) == mask).all()
    assert sum(piece.area for piece in pieces) == area == mask.sum()


@pytest.mark.slow
def test_outlined_masks_are_painted_again_to_the_pixel_piece_by_piece():
    generator = np.random.default_rng(0)
    for share in (0, 0.1, 0.5, 0.7, 0.9, 1) * 40:
        height, width = generator.integers(1, 14, 2)
        mask = generator.random((height, width)) < share
        pieces = outline_runs(count_runs(mask), height=int(height))
        assert (paint(pieces, mask.shape) == mask).all()
        numbers, n_pieces = ndimage.label(mask)  # by the sides of pixels, not by their corners
        assert len(pieces) == n_pieces
        for piece in pieces:
            (number,) = np.unique(numbers[paint([piece], mask.shape) == 1])
            assert piece.is_valid
            assert piece.area == (numbers == number).sum()


@pytest.mark.parametrize(("left", "top", "downsample"), [(0.0, 0.0, 2.0), (3.7, -2.9, 1.3), (1 / 3, 0.1, 0.7)])
def test_holes_stay_exact_at_any_place_and_scale(left, top, downsample):
    mask = ~chess()
    mask[[0, -1]] = mask[:, [0, -1]] = True
    shape = (30, 40)
    row, column = (np.floor(start + (np.arange(n) + 0.5) * downsample) for start, n in ((top, 30), (left, 40)))
    expected = np.zeros(shape, bool)
    on_mask = np.ix_((row >= 0) & (row < 5), (column >= 0) & (column < 7))
    inside = mask[np.ix_(*(place[(place >= 0) & (place < n)].astype(int) for place, n in ((row, 5), (column, 7))))]
    expected[on_mask] = inside
    pieces = [Polygon("SCC", piece) for piece in outline_runs(count_runs(mask), height=5)]
    assert (rasterise(pieces, {"SCC": 1}, left, top, downsample, shape) == expected).all()


def test_runs_of_no_length_join_their_neighbours():
    (piece,) = outline_runs([1, 2, 0, 3, 0, 0, 3], height=9)
    assert piece.equals(shapely.box(0, 1, 1, 6))
    assert outline_runs([9], height=3) == outline_runs([4, 0, 5], height=3) == []


def test_a_mask_of_a_whole_slide_costs_its_border_alone():
    """10¹⁰ pixels: a disc of 45,000 px, by the half chord of each column."""
    side, radius = 100_000, 45_000
    half = np.sqrt(np.maximum(radius**2 - (np.arange(side) + 0.5 - side / 2) ** 2, 0))
    edges = (
        np.stack([np.ceil(side / 2 - half - 0.5), np.ceil(side / 2 + half - 0.5)], 1) + side * np.arange(side)[:, None]
    )
    edges = edges[edges[:, 1] > edges[:, 0]].astype(np.int64)
    counts = np.diff(np.concatenate([[0], edges.ravel(), [side**2]]))
    (piece,) = outline_runs(counts, height=side)
    assert piece.area == (edges[:, 1] - edges[:, 0]).sum()
    assert shapely.get_num_coordinates(piece) < 7 * radius


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0P", "break off within a number"),
        ("0P8 ", "character 4 of the counts is ' '"),
        ("b'0P8'", 'character 2 of the counts is "\'"'),
    ],
)
def test_faults_of_compressed_texts_are_named(text, words):
    with pytest.raises(ValueError, match="counts") as caught:
        decode_counts(text)
    assert words in str(caught.value)
