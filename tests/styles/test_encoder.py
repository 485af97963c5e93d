"""Which images lend their style, the style bank, and pictures seen through affine maps."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CLASSES
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage, stats
from torch.nn import functional as F
from torch.testing import assert_close

from sedm.config import STYLE_SAMPLING
from sedm.data.augment import AffineRange, warp
from sedm.data.patch_table import from_arrays
from sedm.data.patches import Patches
from sedm.data.places import PLACE_COLUMNS, Places
from sedm.styles.bank import StyleBank, draw_style_rows
from sedm.styles.sampling import StyleSampler


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def numbered():
    """Ten images whose every pixel is their row; groups of 5, 4 and 1, each on one slide."""
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 16, 16).contiguous()
    corners = torch.rand(10, 2, generator=generator(), dtype=torch.float64) * 100
    places = Places(list("AABBABBAAC"), corners, torch.full((10,), 40.0, dtype=torch.float64))
    return Patches(images, images[:, 0] * 0, list("aabbabbaac"), CLASSES, places=places)


# ---------------------------------------------------------------------------------------- style sampling


@pytest.mark.parametrize("strategy", ["same_group", "multi"])
def test_style_images_are_all_the_others_of_the_group_and_never_the_target(strategy, numbered):
    sampler = StyleSampler(numbered, strategy, n_images=3)
    rows = [0, 2, 7] * 60
    drawn = sampler.draw_rows(rows, generator())
    assert drawn.shape == (180, 3 if strategy == "multi" else 1)
    for row, others in ((0, {1, 4, 7, 8}), (2, {3, 5, 6}), (7, {0, 1, 4, 8})):
        assert set(drawn[torch.tensor(rows) == row].flatten().tolist()) == others


@pytest.mark.parametrize("strategy", STYLE_SAMPLING)
def test_an_image_alone_in_its_group_lends_its_own_style(strategy, numbered):
    assert set(StyleSampler(numbered, strategy).draw_rows([9, 9], generator()).flatten().tolist()) == {9}


def test_augmented_takes_the_target_itself(numbered):
    assert StyleSampler(numbered, "augmented").draw_rows([3, 9, 0], generator()).tolist() == [[3], [9], [0]]


def test_the_images_are_those_of_the_rows_in_minus_one_to_one(numbered):
    sampler = StyleSampler(numbered, "multi", n_images=4)
    (images, masks), rows = sampler.draw_images([0, 5], generator(1)), sampler.draw_rows([0, 5], generator(1))
    assert masks.equal(numbered.masks[rows])
    assert images.shape == (2, 4, 3, 16, 16)
    assert_close(images, (rows / 127.5 - 1)[:, :, None, None, None].expand_as(images))


def test_the_target_lends_its_style_only_warped_with_its_colours_kept(patches):
    sampler = StyleSampler(patches, "augmented")
    first, second = (sampler.draw_images([2, 2], generator(seed))[0][:, 0] for seed in (0, 1))
    original = patches.images[2].float() / 127.5 - 1
    for warped in (*first, *second):
        assert not warped.allclose(original)
        assert (warped.amax((1, 2)) <= original.amax((1, 2)) + 1e-5).all()
        assert (warped.amin((1, 2)) >= original.amin((1, 2)) - 1e-5).all()
        # 30 of 255 is the step between the classes, of which another share may now be in sight
        assert ((warped - original).mean((1, 2)).abs() < 30 / 127.5).all()
    assert not first[0].allclose(first[1])
    assert not first.allclose(second)


def test_a_warped_style_image_has_its_mask_warped_alike(patches):
    masks = (torch.rand(patches.masks.shape, generator=generator()) < 0.5).to(torch.uint8)
    striped = F.interpolate(masks[:, None, ::4, ::4].float(), masks.shape[1:])[:, 0].to(torch.uint8)
    images = (255 * striped)[:, None].expand(-1, 3, -1, -1).contiguous()
    sampler = StyleSampler(replace(patches, images=images, masks=striped, mask_source=[]), "augmented")
    drawn, drawn_masks = sampler.draw_images([2, 5], generator())
    assert not drawn_masks[0, 0].equal(striped[2])
    agree = (drawn[:, :, 0] > 0) == (drawn_masks > 0)
    assert agree.float().mean() > 0.95  # borders are mixed in one and picked in the other


@pytest.mark.parametrize("strategy", ["augmented", "same_group", "multi"])
def test_a_flat_image_lends_exactly_its_colour(strategy, numbered):
    images, _ = StyleSampler(numbered, strategy).draw_images([9], generator())
    assert_close(images, torch.full_like(images, 9 / 127.5 - 1))


def test_none_drops_every_style_and_the_others_their_share(numbered):
    assert StyleSampler(numbered, "none").draw_dropped(1000, 0.0, generator()).all()
    sampler = StyleSampler(numbered, "multi")
    assert not sampler.draw_dropped(1000, 0.0, generator()).any()
    n_dropped = sampler.draw_dropped(10_000, 0.3, generator()).sum().item()
    assert abs(n_dropped - 3000) < 4 * math.sqrt(10_000 * 0.3 * 0.7)


@pytest.mark.parametrize("strategy", STYLE_SAMPLING)
def test_a_draw_is_a_function_of_the_generator(strategy, numbered):
    sampler, rows = StyleSampler(numbered, strategy), list(range(10))
    torch.manual_seed(1)
    first = sampler.draw_rows(rows, generator(5)), *sampler.draw_images(rows, generator(5))
    torch.manual_seed(2)
    assert first[0].equal(sampler.draw_rows(rows, generator(5)))
    for drawn, again in zip(first[1:], sampler.draw_images(rows, generator(5)), strict=True):
        assert drawn.equal(again)
    if strategy == "multi":
        assert not first[0].equal(sampler.draw_rows(rows, generator(6)))


@pytest.mark.parametrize("strategy", ["same_group", "multi", "nearby"])
def test_every_image_that_may_lend_is_as_likely_as_any_other(strategy, numbered):
    if strategy == "nearby":  # all of a slide lie within one patch
        numbered = replace(numbered, places=replace(numbered.places, sides=numbered.places.sides * 10))
    drawn = StyleSampler(numbered, strategy, n_images=3).draw_rows([4] * 1000, generator())
    counts = np.bincount(drawn.flatten(), minlength=10)[[0, 1, 7, 8]]
    assert counts.sum() == drawn.numel()
    assert stats.chisquare(counts).pvalue > 0.01


def test_an_unknown_style_sampling_is_named(numbered):
    with pytest.raises(
        ValueError, match=r"style_sampling='nearest'; choose one of augmented, nearby, .*did you mean 'nearby'"
    ):
        StyleSampler(numbered, "nearest")


# ---------------------------------------------------------------------------------------- nearby patches


def table_with_places(n, seed=0, **changes):
    """A table of patches of 8 px at 2.5 µm, thrown onto five slides of two patients."""
    random = np.random.default_rng(seed)
    slides = random.integers(5, size=n)
    pixels = random.integers(255, size=(n, 8, 8, 3), dtype=np.uint8)
    columns = {
        "slide": [f"slide-{slide}" for slide in slides],
        "x_microns": random.uniform(0, 150, n).tolist(),
        "y_microns": random.uniform(0, 150, n).tolist(),
        "microns_per_pixel": [2.5] * n,
    }
    return from_arrays(pixels, pixels[..., 0] // 128, [f"patient-{slide % 2}" for slide in slides], **columns | changes)


def lenders(sampler, row, n_draws=60):
    """All the images that were ever drawn for one row."""
    return set(sampler.draw_rows([row] * n_draws, generator()).flatten().tolist())


@pytest.mark.slow
def test_nearby_images_are_those_that_a_brute_force_finds():
    table = table_with_places(40)
    sampler = StyleSampler(Patches.from_table(table, CLASSES, image_size=16), "nearby", n_images=3)
    assert sampler.draw_rows([0, 1], generator()).shape == (2, 1)  # one image a style, as in the reference
    rows = table.remove_columns(["image", "mask"]).to_list()
    kinds = []
    for i, target in enumerate(rows):
        distance = {
            j: (abs(other["x_microns"] - target["x_microns"]), abs(other["y_microns"] - target["y_microns"]))
            for j, other in enumerate(rows)
            if j != i and other["slide"] == target["slide"]
        }
        near = {j for j, (x, y) in distance.items() if max(x, y) <= 8 * 2.5}
        kinds.append("near" if near else "nearest")
        assert lenders(sampler, i) == (near or {min(distance, key=lambda j: math.hypot(*distance[j]))})
    assert set(kinds) == {"near", "nearest"}


def grid(*corners, slides=None, groups=None, side=0.2527 * 512):
    """One image a corner, given in sides of a patch."""
    n = len(corners)
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 16, 16).contiguous()
    places = Places(
        slides or ["slide"] * n,
        torch.tensor(corners, dtype=torch.float64) * side,
        torch.full((n,), side, dtype=torch.float64),
    )
    return Patches(images, images[:, 0] * 0, groups or ["patient"] * n, CLASSES, places=places)


def test_the_eight_patches_around_one_are_nearby_though_their_places_are_rounded():
    corners = [(1000 + x, 1000 + y) for x in range(5) for y in range(5)]
    sampler = StyleSampler(grid(*corners), "nearby")
    assert lenders(sampler, 12) == {6, 7, 8, 11, 13, 16, 17, 18}
    assert lenders(sampler, 0) == {1, 5, 6}


def test_two_cuts_at_the_same_place_lend_to_each_other():
    sampler = StyleSampler(grid((3, 3), (3, 3), (9, 9)), "nearby")
    assert (lenders(sampler, 0), lenders(sampler, 1)) == ({1}, {0})
    assert lenders(sampler, 2) < {0, 1}  # one of the two nearest


def test_without_a_near_one_the_nearest_of_the_slide_lends_then_the_group_then_the_warped_target():
    corners = [(0, 0), (3, 0), (9, 0), (0.5, 0), (0, 0.5), (0, 0)]
    patches = grid(*corners, slides=["1", "1", "1", "2", "1", "1"], groups=list("aaaabc"))
    sampler = StyleSampler(patches, "nearby")
    assert lenders(sampler, 0) == {1}  # neither 3, of another slide, nor 4, of another group's slide 1
    assert lenders(sampler, 2) == {1}
    assert lenders(sampler, 3) == {0, 1, 2}  # alone on its slide
    assert lenders(sampler, 5) == {5}  # alone in its group
    assert_close(sampler.draw_images([5], generator())[0], torch.full((1, 1, 3, 16, 16), 5 / 127.5 - 1))


def test_places_follow_the_rows():
    table = table_with_places(12)
    table = table.map(lambda row, i: {"mask": row["mask"] if i % 3 else None}, with_indices=True)
    tensors = Patches.from_table(table, CLASSES, 16)
    assert tensors.places.slides == table["slide"][:]
    assert tensors.places.corners.tolist() == [
        list(xy) for xy in zip(table["x_microns"], table["y_microns"], strict=True)
    ]
    assert tensors.places.sides.tolist() == [20.0] * 12  # of the stored 8 px, not of the 16 they were resized to
    for part, rows in ((tensors.select([7, 2, 7]), [7, 2, 7]), (tensors.annotated(), [1, 2, 4, 5, 7, 8, 10, 11])):
        assert part.places.slides == [tensors.places.slides[row] for row in rows]
        assert part.places.corners.equal(tensors.places.corners[rows])
        assert part.places.sides.equal(tensors.places.sides[rows])
    streamed = Patches.from_table(table.to_iterable_dataset(), CLASSES, 16).places
    assert streamed.slides == tensors.places.slides
    assert streamed.corners.equal(tensors.places.corners)


@pytest.mark.parametrize("column", PLACE_COLUMNS)
def test_a_table_that_does_not_say_where_its_patches_lie_is_refused_by_nearby_alone(column):
    values = table_with_places(6)[column][:]
    for table in (
        table_with_places(6).remove_columns(column),
        table_with_places(6, **{column: [*values[:4], None, values[5]]}),
    ):
        patches = Patches.from_table(table, CLASSES)
        assert patches.places is None
        assert patches.select([0]).places is None
        assert StyleSampler(patches, "multi").draw_rows([0], generator()).shape == (1, 4)
        with pytest.raises(
            ValueError, match=r"style_sampling='nearby' must know where .* the columns slide, x_microns"
        ):
            StyleSampler(patches, "nearby")


# -------------------------------------------------------------------------------------------- style bank


@pytest.fixture
def bank():
    return StyleBank(torch.randn(5, 4, generator=generator()), ["b", "a", "b", "ö 1", "b"], ["7", "x/1", "2", "3", "4"])


def test_a_bank_comes_back_as_it_was_saved(bank, tmp_path):
    loaded = StyleBank.load(bank.save(tmp_path / "bank.safetensors"))
    assert loaded.embeddings.equal(bank.embeddings)
    assert (loaded.groups, loaded.image_ids) == (bank.groups, bank.image_ids)
    assert loaded.names == ["b", "a", "ö 1"]
    assert (loaded.model, bank.model) == ("", "")
    named = replace(bank, model="abc", groups=["b\nc", *bank.groups[1:]])
    assert StyleBank.load(named.save(tmp_path / "bank.safetensors")).model == "abc"
    assert StyleBank.load(tmp_path / "bank.safetensors").groups == named.groups


@pytest.mark.slow
def test_the_same_bank_is_the_same_file_in_every_process(bank, tmp_path):
    """Two keys of metadata would be written in an order drawn anew by each process."""
    code = "import sys; from sedm.styles.bank import StyleBank; StyleBank.load(sys.argv[1]).save(sys.argv[2])"
    path = bank.save(tmp_path / "bank.safetensors")
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["style_bank"]
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "again.safetensors")], check=True)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_bank_whose_lists_do_not_fit_or_that_holds_no_numbers_is_refused(bank):
    with pytest.raises(ValueError, match="5 style embeddings with 4 groups and 5 image ids"):
        replace(bank, groups=bank.groups[:4])
    with pytest.raises(ValueError, match="5 style embeddings with 5 groups and 0 image ids"):
        replace(bank, image_ids=[])
    broken = bank.embeddings.clone()
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match="style embedding of 2 is not finite"):
        replace(bank, embeddings=broken)


def test_another_safetensors_file_is_not_a_bank(tmp_path):
    for name, metadata in (("embeddings", None), ("weights", {"groups": "a", "image_ids": "1"})):
        save_file({name: torch.zeros(2, 2)}, tmp_path / "other.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match=r"other\.safetensors: not a style bank"):
            StyleBank.load(tmp_path / "other.safetensors")


def test_a_missing_file_or_one_of_another_kind_is_not_a_bank(tmp_path):
    (tmp_path / "other.safetensors").write_text("nothing of the kind")
    for name in ("other.safetensors", "gone.safetensors"):
        with pytest.raises(ValueError, match=name):
            StyleBank.load(tmp_path / name)


def test_an_unknown_group_is_named(bank):
    assert bank.rows_of("b") == [0, 2, 4]
    with pytest.raises(ValueError, match="style group 'c' is not in the bank; it has b, a"):
        bank.rows_of("c")


def test_rows_of_a_group_repeat_only_when_all_were_drawn(bank):
    for seed in range(10):
        assert sorted(draw_style_rows(bank.rows_of("b"), 3, generator(seed))) == [0, 2, 4]
        rows = draw_style_rows(bank.rows_of("b"), 5, generator(seed))
        assert sorted(rows[:3]) == [0, 2, 4]
        assert len(set(rows[3:])) == 2
    assert draw_style_rows(bank.rows_of("a"), 3, generator()) == [1, 1, 1]
    assert len({tuple(draw_style_rows(bank.rows_of("b"), 3, generator(seed))) for seed in range(20)}) > 1


# ---------------------------------------------------------------------------------------- affine maps


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[1, 0], [0, 1]], lambda picture: picture),
        ([[-1, 0], [0, 1]], lambda picture: picture.flip(-1)),
        ([[1, 0], [0, -1]], lambda picture: picture.flip(-2)),
        ([[0, -1], [1, 0]], lambda picture: picture.rot90(1, (1, 2))),
        ([[0, 1], [-1, 0]], lambda picture: picture.rot90(-1, (1, 2))),
    ],
)
def test_flips_and_quarter_turns_move_every_pixel_where_it_belongs(matrix, expected):
    picture = torch.randint(256, (3, 12, 12), dtype=torch.uint8, generator=generator())
    matrix = torch.tensor(matrix, dtype=torch.float32)
    assert warp(picture, matrix, torch.zeros(2), mode="nearest").equal(expected(picture))
    assert_close(warp(picture.float(), matrix, torch.zeros(2)), expected(picture).float(), rtol=0, atol=1e-3)


def test_a_shift_shows_what_lies_at_its_end():
    picture = torch.rand(1, 8, 10, generator=generator())
    moved = warp(picture, torch.eye(2), torch.tensor([2.0, -1.0]))
    assert_close(moved[0, 1:, :-2], picture[0, :-1, 2:], rtol=0, atol=1e-5)
    assert_close(moved[0, 1:, -1], picture[0, :-1, -2], rtol=0, atol=1e-5)  # reflected at the border


@pytest.mark.parametrize("seed", range(4))
def test_any_affine_map_is_the_one_of_scipy(seed):
    height, width = 14, 20
    picture = torch.rand(2, height, width, generator=generator(seed))
    matrix, shift = AffineRange().draw((height, width), generator(seed))
    rows_first = matrix.numpy()[::-1, ::-1]
    centre = np.array([height - 1, width - 1]) / 2
    offset = centre - rows_first @ centre + shift.numpy()[::-1]
    expected = [ndimage.affine_transform(c, rows_first, offset, order=1, mode="reflect") for c in picture.numpy()]
    assert_close(warp(picture, matrix, shift).numpy(), np.stack(expected), rtol=0, atol=1e-4)


def test_an_affine_draw_is_a_function_of_the_generator():
    first, again, other = (AffineRange().draw((8, 12), generator(seed)) for seed in (1, 1, 2))
    assert first[0].equal(again[0])
    assert first[1].equal(again[1])
    assert not first[0].allclose(other[0])


def test_affine_draws_stay_within_their_range_and_fill_it():
    draws = [AffineRange(scale=1.5, translation=0.2).draw((40, 100), generator(seed)) for seed in range(300)]
    areas = torch.stack([matrix.det() for matrix, _ in draws])
    assert 0.4 < (areas < 0).float().mean() < 0.6  # two coins: an odd number of flips half of the time
    logarithms = areas.abs().log() / math.log(1.5)  # of the scale squared, so from −2 to 2
    assert logarithms.abs().max() <= 2 + 1e-4
    assert logarithms.min() < -1.8
    assert logarithms.max() > 1.8
    moved = torch.stack([torch.linalg.solve(*draw) for draw in draws]).abs().amax(0)  # in the picture that is seen
    assert (moved <= torch.tensor([20.001, 8.001])).all()
    assert (moved > torch.tensor([18.0, 7.2])).all()


def test_a_range_of_nothing_leaves_the_picture_alone():
    matrix, shift = AffineRange(0, 1, 0, 0, flips=False).draw((8, 8), generator())
    assert_close(matrix, torch.eye(2))
    assert shift.tolist() == [0, 0]
