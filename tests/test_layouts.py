"""Layouts against a transform written as loops, and the promises of the prior: purity, classes, ranges."""

import math

import pytest
import torch
from safetensors.torch import save_file

from sedm.data.augment import warp
from sedm.layouts import EmpiricalPrior


def random_masks(n=4, height=24, width=24, classes=(0, 1, 2)):
    values = torch.tensor(classes, dtype=torch.uint8)
    return values[torch.randint(len(classes), (n, height, width), generator=torch.Generator().manual_seed(0))]


def reflect(position, size):
    """A coordinate folded back at the outer edges of the first and last pixel."""
    position = (position + 0.5) % (2 * size)
    return min(position, 2 * size - position) - 0.5


def transform_by_loops(mask, matrix, shift):
    height, width = mask.shape
    (a, b), (c, d) = matrix.tolist()
    result = torch.empty_like(mask)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
            source_x = reflect(a * x + b * y + shift[0].item() + width / 2 - 0.5, width)
            source_y = reflect(c * x + d * y + shift[1].item() + height / 2 - 0.5, height)
            result[row, column] = mask[
                min(max(round(source_y), 0), height - 1), min(max(round(source_x), 0), width - 1)
            ]
    return result


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 30)])
@pytest.mark.parametrize("seed", range(3))
def test_the_transform_is_the_one_written_as_loops(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = random_masks(1, height, width, (0, 3, 254))[0]
    matrix = torch.eye(2) + 0.8 * torch.randn(2, 2, generator=generator)
    shift = 5 * torch.randn(2, generator=generator)
    assert warp(mask[None], matrix, shift, mode="nearest")[0].equal(transform_by_loops(mask, matrix, shift))


def test_a_quarter_turn_moves_every_pixel_where_it_belongs():
    mask = random_masks(1, classes=tuple(range(10)))[0]
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert warp(mask[None], quarter, torch.zeros(2), mode="nearest")[0].equal(torch.rot90(mask))
    assert warp(mask[None], torch.eye(2), torch.zeros(2), mode="nearest")[0].equal(mask)


def test_a_layout_depends_on_seed_and_index_only():
    prior = EmpiricalPrior.fit(random_masks(), n_classes=3)
    five = prior.sample(5, seed=3)
    assert five[3].equal(prior.sample(1, seed=3, first=3)[0])
    assert five[2:].equal(prior.sample(3, seed=3, first=2))
    torch.manual_seed(99)
    assert five.equal(prior.sample(5, seed=3))
    assert prior.sample(0, seed=3).shape == (0, 24, 24)


@pytest.mark.parametrize("other", [4, 3 + 2**40])
def test_other_seeds_give_other_layouts(other):
    prior = EmpiricalPrior.fit(random_masks(), n_classes=3)
    ours, theirs = prior.sample(8, seed=3), prior.sample(8, seed=other)
    assert len(torch.cat([ours, theirs]).flatten(1).unique(dim=0)) == 16


def test_classes_survive_exactly():
    """Any blending of the neighbours 0, 100 and 200 would bring in other values."""
    layouts = EmpiricalPrior.fit(random_masks(classes=(0, 100, 200)), n_classes=201).sample(50, seed=0)
    assert layouts.dtype == torch.uint8
    assert layouts.unique().tolist() == [0, 100, 200]


def test_every_mask_is_drawn_and_class_fractions_are_kept():
    masks = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(4, 8, 8).contiguous()
    drawn = EmpiricalPrior.fit(masks, n_classes=4).sample(400, seed=0)
    counts = torch.bincount(drawn[:, 0, 0].long(), minlength=4)
    assert (counts - 100).abs().max() < 40  # four standard deviations are 35


def test_turns_reach_every_direction():
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, :, 20:] = 1
    layouts = EmpiricalPrior.fit(mask, n_classes=2).sample(200, seed=0).float()
    offset = torch.arange(32) - 15.5
    x, y = (layouts * offset).sum((1, 2)), (layouts * offset[:, None]).sum((1, 2))
    upright = y.abs() > x.abs()  # flips and shear alone would leave the edge nearly vertical
    for sector in [upright & (y > 0), upright & (y < 0), ~upright & (x > 0), ~upright & (x < 0)]:
        assert 0.15 < sector.float().mean() < 0.35


def test_scale_and_translation_fill_their_ranges_and_keep_to_them():
    size = 96
    offset = torch.arange(size) - (size - 1) / 2
    disc = (offset**2 + offset[:, None] ** 2 < 20**2).to(torch.uint8)
    layouts = EmpiricalPrior.fit(disc[None], n_classes=2).sample(200, seed=0).float()
    area = layouts.sum((1, 2))
    scale = (area / disc.sum()).sqrt()
    assert 0.79 < scale.min() < 0.85
    assert 1.18 < scale.max() < 1.26
    assert 0.95 < scale.log().mean().exp() < 1.05
    shift = torch.stack([(layouts * offset).sum((1, 2)), (layouts * offset[:, None]).sum((1, 2))]) / area / size
    assert 0.09 < shift.abs().max() < 0.105
    assert shift.mean(1).abs().max() < 0.02


def test_both_mirror_images_occur():
    """An L has a handedness that no rotation, scale or shear can change."""
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 20:44, 24:30] = 1
    mask[:, 38:44, 30:42] = 2
    layouts = EmpiricalPrior.fit(mask, n_classes=3).sample(60, seed=0)
    offset = torch.arange(64) - 31.5
    handed = 0
    for layout in layouts:
        bar, foot = (layout == 1).float(), (layout == 2).float()
        toward = [((foot / foot.sum() - bar / bar.sum()) * axis).sum() for axis in (offset, offset[:, None])]
        y, x = torch.nonzero(bar, as_tuple=True)
        angle = 0.5 * math.atan2(2 * torch.cov(torch.stack([x, y]).float())[0, 1], x.float().var() - y.float().var())
        along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
        handed += (along[0] * toward[0] + along[1] * toward[1]) * (across[0] * toward[0] + across[1] * toward[1]) > 0
    assert 15 < handed < 45


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(0, 8, 8, dtype=torch.uint8), "at least one"),
        (torch.zeros(8, 8, dtype=torch.uint8), "at least one"),
        (torch.zeros(1, 8, 8), "torch.float32"),
        (random_masks(classes=(0, 1, 255)), "mask 0 has unannotated pixels"),
        (torch.arange(6, dtype=torch.uint8)[:, None, None].expand(6, 4, 4), r"mask 3 holds 3, .* 0\.\.2"),
    ],
)
def test_bad_masks_end_in_one_sentence(unchecked, masks, message):
    with pytest.raises(ValueError, match=message):
        EmpiricalPrior.fit(masks, n_classes=3)


def test_a_negative_number_is_an_error():
    with pytest.raises(ValueError, match="n=-1"):
        EmpiricalPrior.fit(random_masks(), n_classes=3).sample(-1, seed=0)


def test_a_saved_prior_samples_the_same_layouts(tmp_path):
    prior = EmpiricalPrior.fit(random_masks(), n_classes=3)
    path = prior.save(tmp_path / "prior")
    loaded = EmpiricalPrior.load(tmp_path / "prior")
    assert loaded.n_classes == 3
    assert loaded.sample(6, seed=1).equal(prior.sample(6, seed=1))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    prior = EmpiricalPrior.fit(random_masks(), n_classes=3)
    before = prior.save(tmp_path).read_bytes()

    def half_write(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", half_write)
    with pytest.raises(OSError, match="No space"):
        EmpiricalPrior.fit(random_masks(9), n_classes=3).save(tmp_path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_a_foreign_or_damaged_file_is_not_loaded(tmp_path):
    path = EmpiricalPrior.fit(random_masks(), n_classes=3).save(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"layout_prior\.safetensors: not a readable safetensors"):
        EmpiricalPrior.load(tmp_path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not an empirical layout prior"):
        EmpiricalPrior.load(tmp_path)
