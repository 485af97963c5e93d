"""Layout priors: what all of them promise (purity, exact wishes, files), and the empirical one against brute force."""

import itertools
import math
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment

from sedm.config import LearnedPriorConfig
from sedm.data.augment import warp
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.layouts import EmpiricalPrior, LayoutPrior, LearnedPrior, RandomFieldPrior, class_fractions, load_prior
from sedm.layouts.empirical import cut, highest, signed_distances
from sedm.layouts.prior import pixel_counts

CLASSES = ("stroma", "epithelium", "lumen")
PRIORS = [EmpiricalPrior, RandomFieldPrior]


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


def glands(n=6, height=32, width=32):
    """Masks with one or two discs of epithelium, each around a lumen."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, height, width, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for i, mask in enumerate(masks):
        for _ in range(1 + i % 2):
            at = torch.rand(2, generator=generator) * torch.tensor([height, width])
            distance = ((y - at[0]) ** 2 + (x - at[1]) ** 2).sqrt()
            mask[distance < 9] = 1
            mask[distance < 4] = 2
    return masks


# ------------------------------------------------------------------------------------- what every prior promises


@pytest.fixture(params=PRIORS, ids=lambda kind: kind.kind, scope="module")
def prior(request) -> LayoutPrior:
    return request.param.fit_masks(glands(), CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("composition", [None, {"epithelium": 0.3}])
def test_a_layout_depends_on_seed_and_index_only(prior, composition):
    five = prior.sample(5, composition, seed=3)
    assert five[3].equal(prior.sample(1, composition, seed=3, first=3)[0])
    assert five[2:].equal(prior.sample(3, composition, seed=3, first=2))
    torch.manual_seed(99)
    assert five.equal(prior.sample(5, composition, seed=3))
    assert prior.sample(0, composition, seed=3).shape == (0, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("other", [4, 3 + 2**40])
def test_other_seeds_give_other_layouts(prior, other):
    ours, theirs = prior.sample(8, seed=3), prior.sample(8, seed=other)
    assert len(torch.cat([ours, theirs]).flatten(1).unique(dim=0)) == 16


@pytest.mark.parametrize(
    "composition",
    [
        {"stroma": 0.5, "epithelium": 0.3, "lumen": 0.2},
        {"stroma": 0.123, "epithelium": 0.8, "lumen": 0.077},
        {"stroma": 0.9, "lumen": 0.1},
        {"epithelium": 0.6},
        {"lumen": 0.0},
        {"stroma": 1.0},
        {},
    ],
)
def test_a_wished_composition_is_met_to_the_pixel(prior, composition):
    layouts = prior.sample(6, composition, seed=0)
    fractions = class_fractions(layouts, 3)
    for name, fraction in composition.items():
        assert ((fractions[:, CLASSES.index(name)] - fraction).abs() <= 1 / 32**2 + 1e-6).all()
    assert len(layouts.flatten(1).unique(dim=0)) == (1 if composition.get("stroma") == 1 else 6)


@pytest.mark.parametrize(
    ("composition", "message"),
    [
        ({"fat": 0.5}, "names the class 'fat'; this prior has stroma, epithelium, lumen"),
        ({"lumen": 1.2}, r"lumen=1.2; a fraction must lie in \[0, 1\]"),
        ({"lumen": float("nan")}, "lumen=nan"),
        ({"stroma": 0.7, "lumen": 0.7}, "sums to 1.4, and epithelium share the rest; make it sum to 1"),
        ({"stroma": 0.5, "epithelium": 0.2, "lumen": 0.2}, "sums to 0.9, and no other class can take the rest"),
    ],
)
def test_an_impossible_wish_ends_in_one_sentence(prior, composition, message):
    with pytest.raises(ValueError, match=message):
        prior.sample(1, composition, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PRIORS)
def test_a_class_in_no_mask_cannot_be_wished_for_and_never_comes(kind):
    prior = kind.fit_masks(glands().clamp(max=1), CLASSES)
    with pytest.raises(ValueError, match="asks for 10% 'lumen', but no fitted mask holds that class"):
        prior.sample(1, {"lumen": 0.1}, seed=0)
    for composition in (None, {"stroma": 0.5}):
        assert prior.sample(20, composition, seed=0).unique().tolist() == [0, 1]


def test_negative_numbers_are_errors(prior):
    with pytest.raises(ValueError, match="n=-1"):
        prior.sample(-1, seed=0)


@pytest.mark.parametrize("kind", PRIORS)
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
def test_bad_masks_end_in_one_sentence(unchecked, kind, masks, message):
    with pytest.raises(ValueError, match=message):
        kind.fit_masks(masks, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [*PRIORS, partial(LearnedPrior.fit_masks, config=LearnedPriorConfig(n_steps=1), progress=False)]
)
def test_masks_with_pixels_that_nobody_knows_are_left_out_with_a_word(kind):
    fit = getattr(kind, "fit_masks", kind)
    masks = glands()
    partly = masks[:2].clone()
    partly[0, 0, 0] = UNKNOWN  # one pixel of an otherwise annotated mask
    partly[1] = UNKNOWN
    with pytest.warns(UserWarning, match=f"2 of {len(masks) + 2} masks have unannotated pixels and are left out"):
        prior = fit(torch.cat([partly, masks]), CLASSES)
    expected = fit(masks, CLASSES)
    assert prior.fractions.equal(expected.fractions)
    assert prior.sample(3, seed=0).equal(expected.sample(3, seed=0))


def test_a_saved_prior_samples_the_same_layouts(prior, tmp_path):
    path = prior.save(tmp_path / "prior")
    loaded = load_prior(tmp_path / "prior")
    assert type(loaded) is type(prior)
    assert (loaded.classes, loaded.size) == (CLASSES, (32, 32))
    for composition in (None, {"lumen": 0.2}):
        assert loaded.sample(6, composition, seed=1).equal(prior.sample(6, composition, seed=1))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PRIORS)
def test_layouts_need_not_be_square(kind):
    layouts = kind.fit_masks(glands(height=24, width=40), CLASSES).sample(3, {"lumen": 0.1}, seed=0)
    assert layouts.shape == (3, 24, 40)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    before = EmpiricalPrior.fit_masks(glands(), CLASSES).save(tmp_path).read_bytes()

    def half_write(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", half_write)
    with pytest.raises(OSError, match="No space"):
        EmpiricalPrior.fit_masks(glands(9), CLASSES).save(tmp_path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_a_foreign_or_damaged_file_is_not_loaded(tmp_path):
    path = EmpiricalPrior.fit_masks(glands(), CLASSES).save(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"layout_prior\.safetensors: not a readable safetensors"):
        load_prior(tmp_path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no layout prior of a kind known here"):
        load_prior(tmp_path)


def test_counts_are_whole_and_nearest():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        fractions = torch.rand(5, generator=generator)
        counts = pixel_counts(fractions, 997)
        assert sum(counts) == 997
        assert all(abs(n - f) < 1 for n, f in zip(counts, fractions / fractions.sum() * 997, strict=True))


# ------------------------------------------------------------------------------------------- the empirical prior


def test_signed_distances_are_those_to_the_nearest_pixel_of_the_other_side():
    mask = random_masks(1, 9, 11)[0]
    distances = signed_distances(mask, 3)
    points = list(itertools.product(range(9), range(11)))
    for k, (i, j) in itertools.product(range(3), points):
        inside = mask[i, j] == k
        nearest = min(math.dist((i, j), p) for p in points if (mask[p] == k) != inside)
        assert distances[k, i, j].item() == pytest.approx((nearest - 0.5) * (1 if inside else -1), abs=1e-5)


def test_distances_that_nothing_bends_give_the_mask_back():
    for mask in torch.cat([random_masks(), glands(height=24, width=24), random_masks(classes=(1, 2))]):
        assert highest(signed_distances(mask, 3).half()).equal(mask)


def test_highest_is_argmax():
    scores = torch.randint(4, (5, 30, 30), generator=torch.Generator().manual_seed(0)).float()
    assert highest(scores).equal(scores.argmax(0).to(torch.uint8))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_the_cut_is_exact_and_near_the_best_assignment(seed, ties):
    """Against the assignment problem solved pixel by pixel, every class repeated as often as it is wanted."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 6, 7, generator=generator)
    scores = scores.round() if ties else scores
    counts = [20, 15, 7]
    labels = cut(scores, counts)
    assert torch.bincount(labels.flatten().long(), minlength=3).tolist() == counts
    owners = torch.arange(3).repeat_interleave(torch.tensor(counts))
    rows, columns = linear_sum_assignment(scores.flatten(1)[owners].numpy(), maximize=True)
    best = scores.flatten(1)[owners][rows, columns].sum()
    ours = scores.flatten(1).gather(0, labels.flatten().long()[None]).sum()
    assert best - 1e-4 - (1.0 if ties else 0.6) < ours <= best + 1e-4


def test_classes_survive_exactly():
    """Any blending of the neighbours 0, 2 and 5 would bring in other values."""
    layouts = EmpiricalPrior.fit_masks(random_masks(classes=(0, 2, 5)), tuple("abcdef")).sample(50, seed=0)
    assert layouts.dtype == torch.uint8
    assert layouts.unique().tolist() == [0, 2, 5]


def test_no_class_appears_between_two_others():
    """Halves of 0 and 2, no 1 anywhere near: a warp that averages indices would draw a line of 1 between them."""
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[:, :, 16:] = 2
    masks[:, 0, 0] = 1
    layouts = EmpiricalPrior.fit_masks(masks, CLASSES).sample(50, seed=0)
    assert ((layouts == 1).sum((1, 2)) <= 12).all()  # the corner's pixel, enlarged or mirrored


@pytest.mark.slow
def test_every_mask_is_drawn_and_class_fractions_are_kept():
    masks = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(4, 8, 8).contiguous()
    drawn = EmpiricalPrior.fit_masks(masks, tuple("abcd")).sample(400, seed=0)
    counts = torch.bincount(drawn[:, 0, 0].long(), minlength=4)
    assert (counts - 100).abs().max() < 40  # four standard deviations are 35


@pytest.mark.slow
def test_two_masks_are_recombined_half_of_the_time():
    masks = torch.arange(2, dtype=torch.uint8)[:, None, None].expand(2, 16, 16).contiguous()
    layouts = EmpiricalPrior.fit_masks(masks, ("a", "b")).sample(400, seed=0)
    both = (layouts.amax((1, 2)) != layouts.amin((1, 2))).float().mean()
    assert 0.15 < both < 0.32  # half are recombined, half of these from two different masks; some borders lie outside


def test_a_wish_draws_masks_that_are_near_it():
    masks = torch.zeros(8, 16, 16, dtype=torch.uint8)
    for i, mask in enumerate(masks):
        mask[:, : 2 * i] = 1
    prior = EmpiricalPrior.fit_masks(masks, ("a", "b"))
    assert prior._weights(torch.tensor([float("nan"), 0.87])).nonzero().flatten().tolist() == [7]
    assert prior._weights(torch.tensor([0.97, float("nan")])).nonzero().flatten().tolist() == [0, 1]


def test_classes_that_no_single_mask_holds_together_are_refused():
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[0, :4], masks[1, :4] = 1, 2
    with pytest.raises(ValueError, match="no single mask holds all of stroma, epithelium, lumen"):
        EmpiricalPrior.fit_masks(masks, CLASSES).sample(1, {"stroma": 0.4, "epithelium": 0.3, "lumen": 0.3}, seed=0)


def test_turns_reach_every_direction():
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, :, 20:] = 1
    layouts = EmpiricalPrior.fit_masks(mask, ("a", "b")).sample(200, seed=0).float()
    offset = torch.arange(32) - 15.5
    x, y = (layouts * offset).sum((1, 2)), (layouts * offset[:, None]).sum((1, 2))
    upright = y.abs() > x.abs()  # flips and shear alone would leave the edge nearly vertical
    for sector in [upright & (y > 0), upright & (y < 0), ~upright & (x > 0), ~upright & (x < 0)]:
        assert 0.15 < sector.float().mean() < 0.35


def test_scale_and_translation_fill_their_ranges_and_keep_to_them(monkeypatch):
    monkeypatch.setattr("sedm.layouts.empirical.ELASTIC", 0.0)
    monkeypatch.setattr("sedm.layouts.empirical.RECOMBINED", 0.0)
    size = 96
    offset = torch.arange(size) - (size - 1) / 2
    disc = (offset**2 + offset[:, None] ** 2 < 20**2).to(torch.uint8)
    layouts = EmpiricalPrior.fit_masks(disc[None], ("a", "b")).sample(200, seed=0).float()
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
    layouts = EmpiricalPrior.fit_masks(mask, CLASSES).sample(60, seed=0)
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


@pytest.mark.parametrize("kind", PRIORS)
def test_a_prior_needs_a_mask_that_a_person_made(kind):
    masks = random_masks()
    images = torch.zeros(4, 3, 24, 24, dtype=torch.uint8)
    predicted = Patches(images, masks, list("aabb"), CLASSES, mask_source=["predicted"] * 4)
    with pytest.raises(ValueError, match=r"none of the 4 patches is annotated; a layout prior needs at least one"):
        kind.fit(predicted)
