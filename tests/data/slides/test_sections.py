"""Tissue is found on drawn slides of each kind, and what was left out is told."""

import numpy as np
import pytest
from drawn_slides import disc, write_pyramid

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.cutting import sample_patches, sample_positions
from sedm.data.slides.polygons import as_polygon
from sedm.data.slides.sections import find_tissue
from sedm.data.slides.slide import Slide

SIDE, MICRONS, CELL = 512, 2.0, 16  # px a side, µm a pixel, px of a cell of 32 µm: a slide of about 1 mm²
GLASS, HE, DARK, PALE, PALEST = (245, 245, 245), (200, 120, 180), (110, 60, 150), (228, 200, 220), (240, 231, 238)
LEFT, RIGHT = disc((SIDE, SIDE), 250, 140, 110), disc((SIDE, SIDE), 250, 380, 110)
EVERYWHERE, NOWHERE = np.ones((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
LEFT_HALF = np.arange(SIDE)[None] < SIDE // 2
STROKE = np.abs(np.arange(SIDE)[:, None] - 440) < 30  # across the whole slide, below the sections
SHADE = np.linspace(0.94, 1, SIDE)[None, :, None]  # of the lamp, from the left to the right


def paint(ground, *areas):
    """A picture: grainy ground, and (area, colour) on top of it, with the texture of tissue."""
    generator = np.random.default_rng(0)
    picture = np.broadcast_to(ground, (SIDE, SIDE, 3)) + generator.normal(0, 2, (SIDE, SIDE, 3))
    for area, colour in areas:
        contrast = min(0.1 * (255 - min(colour)), 0.2 * min(colour))  # strong dyes vary more
        texture = np.kron(generator.normal(0, contrast, (SIDE // 8, SIDE // 8, 1)), np.ones((8, 8, 1)))
        picture[area] = (np.array(colour) + texture + generator.normal(0, 2, (SIDE, SIDE, 3)))[area]
    return picture.clip(0, 255).astype(np.uint8)


def filled(picture, area, colour):
    """The picture with an area of exactly one colour, as software fills it in."""
    return np.where(area[..., None], np.array(colour, np.uint8), picture)


def grey(picture):
    return np.repeat(picture.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)


def inked(picture, area, colour):
    """Ink lets through what its colour says of the light that comes through the picture."""
    return np.where(area[..., None], picture * (np.array(colour) / 255), picture).astype(np.uint8)


BOTH = paint(GLASS, (LEFT, HE), (RIGHT, PALE))
KINDS = {
    "tissue on glass": (BOTH, LEFT | RIGHT),
    "tissue from edge to edge": (paint(HE, (EVERYWHERE, HE)), EVERYWHERE),
    "the palest tissue from edge to edge": (paint(HE, (EVERYWHERE, PALEST)), EVERYWHERE),
    "half pale, half dark, without glass": (paint(HE, (EVERYWHERE, PALE), (LEFT_HALF & EVERYWHERE, DARK)), EVERYWHERE),
    "a hole in tissue from edge to edge": (paint(GLASS, (~LEFT, HE)), ~LEFT),
    "a dark and a pale section": (paint(GLASS, (LEFT, DARK), (RIGHT, PALE)), LEFT | RIGHT),
    "the palest section on glass": (paint(GLASS, (RIGHT, PALEST)), RIGHT),
    "yellowish glass": (paint((245, 240, 222), (LEFT, HE), (RIGHT, PALE)), LEFT | RIGHT),
    "pinkish glass": (paint((241, 236, 239), (LEFT, HE), (RIGHT, PALE)), LEFT | RIGHT),
    "a weak lamp": (paint((192, 190, 193), (LEFT, DARK), (RIGHT, (180, 160, 174))), LEFT | RIGHT),
    "an uneven lamp": ((BOTH * SHADE).astype(np.uint8), LEFT | RIGHT),
    "white around the scanned area": (filled(paint((238, 235, 237), (RIGHT, PALE)), LEFT, (255, 255, 255)), RIGHT),
    "black around the scanned area": (filled(BOTH, LEFT_HALF & EVERYWHERE, (0, 0, 0)), RIGHT),
    "grey-scale on glass": (grey(paint(GLASS, (LEFT, HE), (RIGHT, PALE))), LEFT | RIGHT),
    "grey-scale from edge to edge": (grey(paint(HE, (EVERYWHERE, HE))), EVERYWHERE),
    "brown and blue dye": (paint(GLASS, (LEFT, (140, 95, 60)), (RIGHT, (160, 175, 210))), LEFT | RIGHT),
    "dark, bluish haematoxylin": (paint(GLASS, (LEFT, (60, 55, 130)), (RIGHT, (110, 120, 190))), LEFT | RIGHT),
    "melanin and blood": (paint(GLASS, (LEFT, (60, 42, 32)), (RIGHT, (195, 60, 85))), LEFT | RIGHT),
    "nothing but glass": (paint(GLASS), NOWHERE),
    **{
        f"{name} pen": (inked(BOTH, STROKE & EVERYWHERE, colour), LEFT | RIGHT)
        for name, colour in {
            "blue": (20, 60, 200),
            "pure blue": (0, 0, 255),
            "navy": (20, 20, 120),
            "light blue": (125, 165, 240),
            "green": (20, 130, 60),
            "pure green": (0, 255, 0),
            "red": (215, 30, 40),
            "pure red": (255, 0, 0),
            "yellow": (250, 235, 40),
            "black": (35, 32, 40),
            "worn black": (75, 72, 78),
        }.items()
    },
}


def pure_cells(area):
    """Which cells lie wholly in an area, and which wholly outside of it."""
    share = area.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL).mean((1, 3))
    return share == 1, share == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tissue_is_found_where_it_was_painted_and_nowhere_else(kind, tmp_path):
    picture, area = KINDS[kind]
    with Slide(write_pyramid(tmp_path / "a.tif", picture, MICRONS)) as slide:
        cells = find_tissue(slide).cells
    inside, outside = pure_cells(area)
    assert cells[inside].all()
    assert not cells[outside].any()


@pytest.mark.parametrize("kind", ["blue pen", "a dark and a pale section", "black around the scanned area"])
def test_tissue_is_the_same_behind_lossy_compression_and_on_a_pyramid(kind, tmp_path):
    picture, area = KINDS[kind]
    path = write_pyramid(tmp_path / "a.tif", picture, MICRONS, factors=(1, 4), compression="jpeg")
    with Slide(path) as slide:
        cells = find_tissue(slide).cells
    inside, outside = pure_cells(area)
    assert cells[inside].all()
    assert not cells[outside].any()


def test_pen_across_tissue_is_cut_out_of_it(tmp_path):
    picture, area = KINDS["tissue from edge to edge"]
    with Slide(write_pyramid(tmp_path / "a.tif", inked(picture, STROKE & EVERYWHERE, (20, 60, 200)), MICRONS)) as slide:
        tissue = find_tissue(slide)
    inside, outside = pure_cells(area & ~STROKE)
    assert tissue.cells[inside].all()
    assert not tissue.cells[outside].any()
    assert tissue.shares["pen"] == pytest.approx(60 / SIDE, abs=CELL / SIDE)


def test_small_cores_are_found_and_specks_are_not(tmp_path):
    """A core of 0.2 mm across on a slide of 9.4 mm², and a speck of 0.1 mm."""
    core, speck = disc((SIDE, SIDE), 250, 140, 17), disc((SIDE, SIDE), 250, 380, 8)
    picture = paint(GLASS, (core | speck, HE))
    with Slide(write_pyramid(tmp_path / "a.tif", picture, microns=6.0)) as slide:
        tissue = find_tissue(slide)
        everything = find_tissue(slide, min_area_mm2=0.0)
    microns = np.array([[140.0, 250.0], [380.0, 250.0]]) * 6
    assert tissue.at(*microns.T).tolist() == [True, False]
    assert everything.at(*microns.T).tolist() == [True, True]
    assert "speck" in tissue.shares
    assert "speck" not in everything.shares


def test_a_field_of_tissue_smaller_than_a_speck_gives_patches(tmp_path):
    picture = paint(HE, (EVERYWHERE, HE))[:64, :64]  # 128 µm a side
    with Slide(write_pyramid(tmp_path / "a.tif", picture, MICRONS)) as slide:
        assert len(list(sample_patches(slide, 3, 16, MICRONS, seed=0))) == 3


def test_the_report_says_what_was_found_and_what_was_left_out(tmp_path):
    picture = inked(filled(BOTH, np.arange(SIDE)[:, None] < 64, (0, 0, 0)), STROKE & EVERYWHERE, (20, 60, 200))
    path = write_pyramid(tmp_path / "a.tif", picture, MICRONS, left_out={0: [(2, 7), (3, 7)]})
    with Slide(path) as slide:
        tissue = find_tissue(slide)
    assert sum(tissue.shares.values()) == pytest.approx(1)
    assert tissue.shares["black"] == pytest.approx(64 / SIDE)
    assert tissue.shares["left out"] == pytest.approx(2 / 64)
    assert tissue.shares["tissue"] == pytest.approx((LEFT | RIGHT).mean() - 0.01, abs=0.03)
    assert tissue.glass == pytest.approx((245, 245, 245), abs=1)
    for words in ("12.5 % black", "3.1 % left out", "% tissue", "% pen", f"% glass {tissue.glass}"):
        assert words in str(tissue)


@pytest.mark.slow
def test_the_error_of_a_slide_without_tissue_names_settings_that_find_it(tmp_path):
    palest = paint(GLASS, (RIGHT, (243, 239, 243)))
    blue = paint(GLASS, (LEFT, (110, 140, 195)))
    core = paint(GLASS, (disc((SIDE, SIDE), 250, 140, 8), HE))
    for picture, microns, settings, words in [
        (palest, MICRONS, {"min_colour": 0.005}, "); lower min_density=0.04 or min_colour=0.012 for paler tissue"),
        (blue, MICRONS, {"leave_out_pen": False}, "% pen); lower"),
        (core, 6.0, {"min_area_mm2": 0.001}, "min_area_mm2=0.02 for smaller pieces (the largest speck has 0.0"),
    ]:
        with Slide(write_pyramid(tmp_path / "SCC_09_1.tif", picture, microns)) as slide:
            with pytest.raises(PatchTableError, match=r"SCC_09_1\.tif: no tissue found") as caught:
                sample_positions(slide, 1, 8, microns, seed=0, tissue=find_tissue(slide))
            assert words in str(caught.value)
            assert next(iter(settings)) in str(caught.value)
            assert find_tissue(slide, **settings).cells.any()


def test_the_colour_of_glass_can_be_told_where_it_is_not_found(tmp_path):
    picture = paint((165, 160, 150), (LEFT, (90, 40, 100)))
    with Slide(write_pyramid(tmp_path / "a.tif", picture, MICRONS)) as slide:
        assert find_tissue(slide).cells.all()
        cells = find_tissue(slide, glass=(165, 160, 150)).cells
    inside, outside = pure_cells(LEFT)
    assert cells[inside].all()
    assert not cells[outside].any()


def test_ground_under_ink_is_unknown_where_only_glass_is_background(tmp_path):
    picture = inked(BOTH, STROKE & EVERYWHERE, (20, 60, 200))
    path = write_pyramid(tmp_path / "a.tif", picture, MICRONS)
    polygon = as_polygon("SCC", [(240, 380), (260, 380), (260, 400), (240, 400)])  # on the glass, near the ink
    with Slide(path) as slide:
        patch = next(sample_patches(slide, 1, 96, MICRONS, 0, [polygon], {"SCC": 1}, unannotated_is_background=False))
    mask = np.asarray(patch["mask"])
    top = round(patch["y_microns"] / MICRONS)
    assert (mask[440 - 20 - top : 440 + 20 - top] == 255).all()  # the stroke
    assert set(np.unique(mask[: 400 - top])) == {0, 1}
