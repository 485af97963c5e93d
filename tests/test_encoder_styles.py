"""Styles of sets of images, which images lend them, and pictures seen through affine maps."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage
from torch.testing import assert_close

from sedm.data.augment import AffineRange, warp
from sedm.data.tensors import PatchTensors
from sedm.encoder import AGGREGATIONS, StyleEncoder
from sedm.styles import STYLE_SAMPLING, StyleBank, StyleSampler, draw_style_rows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def encoder(aggregation):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleEncoder(channels=(8, 8), style_dim=6, aggregation=aggregation).eval().requires_grad_(False)


@pytest.fixture
def images():
    """Style images of two rows, five each, in [−1, 1]."""
    return torch.rand(2, 5, 3, 16, 16, generator=generator()) * 2 - 1


@pytest.fixture
def numbered():
    """Ten images whose every pixel is their row; groups of 5, 4 and 1."""
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 16, 16).contiguous()
    return PatchTensors(images, images[:, 0] * 0, list("aabbabbaac"))


# -------------------------------------------------------------------------------------------- aggregation


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_order_of_style_images_does_not_matter(aggregation, images):
    model = encoder(aggregation)
    assert_close(model(images[:, [3, 0, 4, 1, 2]]), model(images))
    assert not model(images[:, :4]).allclose(model(images))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_showing_the_same_images_again_does_not_change_the_style(aggregation, images):
    model = encoder(aggregation)
    assert_close(model(images.repeat(1, 3, 1, 1, 1)), model(images))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_style_of_one_image_is_its_embedding(aggregation, images):
    model = encoder(aggregation)
    assert_close(model(images[:, :1]), model.embed(images[:, 0]))


@pytest.mark.parametrize(("aggregation", "expected"), [("mean", np.mean), ("max", np.max)])
def test_a_style_is_what_its_aggregation_is_called(aggregation, expected, images):
    model = encoder(aggregation)
    embeddings = np.stack([model.embed(row).numpy() for row in images])
    assert_close(model(images).numpy(), expected(embeddings, axis=1))


def test_a_style_does_not_depend_on_the_other_rows(images):
    model = encoder("mean")
    assert_close(model(images)[:1], model(images[:1]))


def test_an_embedding_ignores_where_things_are_but_not_their_colour(images):
    model = encoder("mean")
    flat = torch.zeros(1, 3, 16, 16)
    assert not model.embed(flat).allclose(model.embed(flat + 0.5))
    assert not model.embed(images[0]).allclose(model.embed(images[0].roll(1, dims=1)))


def test_an_unknown_aggregation_is_named():
    with pytest.raises(ValueError, match=r"aggregation='median'; choose one of \['max', 'mean'\]"):
        StyleEncoder(aggregation="median")


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
    images, rows = sampler.draw_images([0, 5], generator(1)), sampler.draw_rows([0, 5], generator(1))
    assert images.shape == (2, 4, 3, 16, 16)
    assert_close(images, (rows / 127.5 - 1)[:, :, None, None, None].expand_as(images))


def test_the_target_lends_its_style_only_warped_with_its_colours_kept(patches):
    sampler = StyleSampler(patches, "augmented")
    first, second = (sampler.draw_images([2, 2], generator(seed))[:, 0] for seed in (0, 1))
    original = patches.images[2].float() / 127.5 - 1
    for warped in (*first, *second):
        assert not warped.allclose(original)
        assert (warped.amax((1, 2)) <= original.amax((1, 2)) + 1e-5).all()
        assert (warped.amin((1, 2)) >= original.amin((1, 2)) - 1e-5).all()
        # 30 of 255 is the step between the classes, of which another share may now be in sight
        assert ((warped - original).mean((1, 2)).abs() < 30 / 127.5).all()
    assert not first[0].allclose(first[1])
    assert not first.allclose(second)


@pytest.mark.parametrize("strategy", ["augmented", "same_group", "multi"])
def test_a_flat_image_lends_exactly_its_colour(strategy, numbered):
    images = StyleSampler(numbered, strategy).draw_images([9], generator())
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
    first = sampler.draw_rows(rows, generator(5)), sampler.draw_images(rows, generator(5))
    torch.manual_seed(2)
    assert first[0].equal(sampler.draw_rows(rows, generator(5)))
    assert first[1].equal(sampler.draw_images(rows, generator(5)))
    if strategy == "multi":
        assert not first[0].equal(sampler.draw_rows(rows, generator(6)))


def test_an_unknown_style_sampling_is_named(numbered):
    with pytest.raises(ValueError, match="style_sampling='nearest'; choose one of augmented, same_group"):
        StyleSampler(numbered, "nearest")


# -------------------------------------------------------------------------------------------- style bank


@pytest.fixture
def bank():
    return StyleBank(torch.randn(5, 4, generator=generator()), ["b", "a", "b", "ö 1", "b"], ["7", "x/1", "2", "3", "4"])


def test_a_bank_comes_back_as_it_was_saved(bank, tmp_path):
    loaded = StyleBank.load(bank.save(tmp_path / "bank.safetensors"))
    assert loaded.embeddings.equal(bank.embeddings)
    assert (loaded.groups, loaded.image_ids) == (bank.groups, bank.image_ids)
    assert loaded.names == ["b", "a", "ö 1"]


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
        assert sorted(draw_style_rows(bank, "b", 3, generator(seed))) == [0, 2, 4]
        rows = draw_style_rows(bank, "b", 5, generator(seed))
        assert sorted(rows[:3]) == [0, 2, 4]
        assert len(set(rows[3:])) == 2
    assert draw_style_rows(bank, "a", 3, generator()) == [1, 1, 1]
    assert len({tuple(draw_style_rows(bank, "b", 3, generator(seed))) for seed in range(20)}) > 1


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
