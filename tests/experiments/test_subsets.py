"""Label subsets: all of one sees the masks of its groups only, and each source of pairs is what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sedm.config import ArmConfig, AutoencoderConfig, build_config
from sedm.config.study import STUDIES
from sedm.data.patch_table import from_arrays
from sedm.data.patches import Patches, decode_tables
from sedm.data.study_data import StudyData, load_study
from sedm.experiments import subsets
from sedm.experiments.colour_transfer import reinhard
from sedm.experiments.study_comparison import save_parts
from sedm.experiments.subsets import STYLES, LabelSubset, pretrain, transfer_colours
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline
from sedm.styles.bank import StyleBank

SIZE = 16


@pytest.fixture
def config(config):
    arms = ArmConfig(compared=("real",), n_images=6, n_pretraining_steps=3, n_fine_tuning_steps=3)
    data = replace(config.data, n_annotated_groups=2)
    training = replace(config.training, unannotated="predicted_masks")
    return replace(config, data=data, training=training, arms=arms)


def make_study(masks_of=None):
    """Four training groups of four images, and one test group; ``masks_of`` changes the masks of some groups."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(20, SIZE, SIZE, 3), dtype=np.uint8)
    masks = rng.integers(3, size=(20, SIZE, SIZE), dtype=np.uint8)
    groups = [f"case-{row // 4}" for row in range(20)]
    for row, group in enumerate(groups):
        if group in (masks_of or ()):
            masks[row] = (masks[row] + 1) % 3
    train, test = from_arrays(images[:16], masks[:16], groups[:16]), from_arrays(images[16:], masks[16:], ["test"] * 4)
    study, tables = STUDIES["tissue"], {"train": train, "test": test}
    return StudyData(study, tables, decode_tables(tables, study.classes))


def annotated_groups(subset):
    return set(subset.train.annotated().groups)


def everything_made_by(config, study, folder):
    """All that a label subset makes, as one list of tensors."""
    subset = LabelSubset(config, study, 0, folder)
    transferred = subset.transfer("macenko")
    pairs = [subset.generate("unannotated"), subset.transfer("reinhard"), subset.filtered(transferred, 20)]
    weights = subset.generator.denoiser.state_dict()
    return [subset.train.masks, subset.with_predicted_masks.masks, *weights.values()] + [
        pixels for one in pairs for pixels in (one.images, one.masks)
    ]


@pytest.mark.slow
def test_nothing_of_a_subset_sees_the_masks_of_other_groups(config, tmp_path):
    """Other masks of the unannotated groups change nothing; other masks of the annotated ones change it all."""
    annotated = annotated_groups(LabelSubset(config, make_study(), 0, tmp_path / "look"))
    others = {f"case-{i}" for i in range(4)} - annotated
    assert len(annotated) == len(others) == 2
    found = everything_made_by(config, make_study(), tmp_path / "a")
    of_others = everything_made_by(config, make_study(others), tmp_path / "b")
    assert all(torch.equal(one, other) for one, other in zip(found, of_others, strict=True))
    of_annotated = everything_made_by(config, make_study(annotated), tmp_path / "c")
    same = [
        one.shape == other.shape and torch.equal(one, other) for one, other in zip(found, of_annotated, strict=True)
    ]
    of_generated, of_transferred, weights = same[-5], same[-3], same[2:-6]
    assert not any((same[0], same[1], of_generated, of_transferred, all(weights)))


@pytest.mark.slow
def test_pretraining_sees_images_and_no_mask(config, tmp_path):
    given = [(name, make_study(groups)) for name, groups in (("a", ()), ("b", {"case-0", "case-3"}))]
    one, other = (pretrain(config, study, tmp_path / name).state_dict() for name, study in given)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_generator_starts_from_the_pretrained_one(config, tmp_path):
    study = make_study()
    started = LabelSubset(config, study, 0, tmp_path / "a").generator.denoiser.state_dict()
    arms = replace(config.arms, n_pretraining_steps=0, n_fine_tuning_steps=0)
    training = replace(config.training, n_steps=3)
    fresh = LabelSubset(replace(config, arms=arms, training=training), study, 0, tmp_path / "b").generator.denoiser
    assert not all(torch.equal(started[key], weight) for key, weight in fresh.state_dict().items())
    assert [(tmp_path / name / "pretraining.lock").exists() for name in "ab"] == [True, False]


@pytest.mark.slow
def test_a_generator_is_trained_once_and_kept(config, tmp_path):
    first = LabelSubset(config, make_study(), 0, tmp_path).generator.denoiser.state_dict()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    again = LabelSubset(config, make_study(), 0, tmp_path).generator.denoiser.state_dict()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == before
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.slow
def test_a_generator_on_latents_has_the_autoencoder_of_all_subsets(config, tmp_path):
    """It has seen images and no mask, so one serves every subset."""
    model = replace(config.model, autoencoder="own", unshuffle=1)
    training = replace(config.training, symmetries="none", colour_jitter=0.0, class_jitter=0.0)
    config = replace(config, model=model, training=training, autoencoder=AutoencoderConfig(channels=(8, 8), n_steps=2))
    first, second = (LabelSubset(config, make_study(), number, tmp_path).generator for number in (0, 1))
    one, other = (generator.autoencoder.state_dict() for generator in (first, second))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert LabelSubset(config, make_study(), 0, tmp_path).generate("unannotated").images.shape == (6, 3, SIZE, SIZE)


def test_subsets_differ_and_smaller_ones_are_nested(config, tmp_path):
    study, data = make_study(), replace(config.data, n_annotated_groups=1)
    of_subsets = [annotated_groups(LabelSubset(config, study, number, tmp_path)) for number in range(6)]
    assert all(len(groups) == 2 for groups in of_subsets)
    assert len(set(map(frozenset, of_subsets))) > 1
    assert annotated_groups(LabelSubset(replace(config, data=data), study, 3, tmp_path)) < of_subsets[3]
    assert (
        len(
            {
                LabelSubset(one, study, n, tmp_path).folder
                for one in (config, replace(config, data=data))
                for n in (0, 1)
            }
        )
        == 4
    )


@pytest.mark.slow
def test_each_source_of_styles_lends_what_it_says(config, tmp_path):
    subset = LabelSubset(config, make_study(), 0, tmp_path)
    annotated = annotated_groups(subset)
    others = set(subset.train.groups) - annotated
    lent = {styles: subset._bank(styles) for styles in STYLES}
    assert set(lent["unannotated"].groups) == set(lent["shuffled"].groups) == others
    assert set(lent["annotated"].groups) == annotated
    assert set(lent["transductive"].groups) == others | {"test"}
    assert torch.equal(lent["shuffled"].embeddings, lent["unannotated"].embeddings)
    assert lent["shuffled"].groups != lent["unannotated"].groups
    null = subset.generator.denoiser.null_style
    assert torch.equal(subset.generator.aggregate(lent["none"].embeddings.repeat(4, 1)[None])[0, 0], null)
    assert set(subset.generate("unannotated").groups) <= others
    assert set(subset.generate("annotated").groups) <= annotated


@pytest.mark.slow
def test_the_null_style_cannot_be_lent_through_a_linear_map(config, tmp_path):
    config = replace(config, model=replace(config.model, aggregation="linear", n_style_images=2))
    with pytest.raises(ValueError, match="styles='none' with aggregation='linear'"):
        LabelSubset(config, make_study(), 0, tmp_path).generate("none")


@pytest.mark.slow
@pytest.mark.parametrize("layouts", ["empirical", "random_field", "learned", "predicted_masks"])
def test_layouts_come_from_where_the_setting_says(config, layouts, tmp_path):
    config = replace(config, arms=replace(config.arms, layouts=layouts))
    subset = LabelSubset(config, make_study(), 0, tmp_path)
    sampled = subset.layouts.sample(4, seed=0)
    assert sampled.shape == (4, SIZE, SIZE)
    if layouts == "predicted_masks":
        predicted = subset.with_predicted_masks.masks[~subset.train.is_annotated]
        assert all((predicted == one).flatten(1).all(1).any() for one in sampled)


def test_filtering_drops_the_worst_pairs_of_a_class(config, tmp_path):
    """A fifth of six pairs is one a class, whatever the network thinks of them."""
    subset = LabelSubset(config, make_study(), 0, tmp_path)
    pairs = subset.transfer("reinhard")
    assert 3 <= len(subset.filtered(pairs, 20)) < len(pairs) == 6
    assert len(subset.filtered(pairs, 0)) == len(pairs)


def test_transferred_images_keep_their_masks_and_take_the_colours_of_the_lenders(patches):
    annotated, others = patches.annotated(), patches.select(range(8, 16))
    made = transfer_colours(annotated, others, reinhard, n_images=12, seed=0)
    assert len(made) == 12
    assert set(made.groups) <= set(annotated.groups)
    assert all((annotated.masks == mask).flatten(1).all(1).any() for mask in made.masks)
    colours = {
        name: others.images[[i for i, g in enumerate(others.groups) if g == name]].float().mean((0, 2, 3))
        for name in set(others.groups)
    }
    of_annotated = annotated.images.float().mean((0, 2, 3))
    for image in made.images.float().mean((2, 3)):
        assert min((image - colour).norm() for colour in colours.values()) < 0.3 * (image - of_annotated).norm()


@pytest.mark.slow
def test_the_data_of_a_study_are_those_of_its_tables():
    config = build_config("tissue", "smoke")
    study = load_study(config)
    assert {name: isinstance(one, Patches) for name, one in study.held_out.items()} == dict.fromkeys(
        ("validation", "test", "shifted"), True
    )
    assert not study.held_out_groups & set(study.train.groups)
    assert load_study(replace(config, seed=1)).checksum != study.checksum


def test_where_all_groups_are_annotated_nobody_lends(config, tmp_path):
    subset = LabelSubset(replace(config, data=replace(config.data, n_annotated_groups=4)), make_study(), 0, tmp_path)
    for use in (lambda: subset.lenders, lambda: subset.pseudo_labelled, lambda: subset.transfer("reinhard")):
        with pytest.raises(ValueError, match="n4-draw0: all 16 training images are annotated, so there is no style"):
            use()


# ------------------------------------------------------------------------------------------------ two laboratories


def make_pair(changed=False):
    """`make_study` whose last two training groups are of another laboratory and lend; ``changed`` alters them."""
    study = make_study()
    lenders = frozenset({"case-2", "case-3"})
    if changed:
        train = study.train
        images = train.images.clone()
        rows = [row for row, group in enumerate(train.groups) if group in lenders]
        images[rows] = 255 - images[rows]
        study = replace(study, patches=study.patches | {"train": replace(train, images=images)})
    return replace(study, lenders=lenders)


@pytest.mark.slow
def test_lenders_alone_lend_and_a_zero_shot_generator_never_saw_them(config, tmp_path):
    config = replace(config, data=replace(config.data, n_annotated_groups=1))
    first, other = (LabelSubset(config, make_pair(c), 0, tmp_path / str(c)) for c in (False, True))
    assert set(first.lenders.groups) == set(first.pseudo_labelled.groups) == {"case-2", "case-3"}
    assert annotated_groups(first) < {"case-0", "case-1"}
    for styles, is_same in (("zero_shot", True), ("unannotated", False)):
        weights = [subset.generator_of(styles).denoiser.state_dict() for subset in (first, other)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]) == is_same
    pairs = first.generate("zero_shot"), other.generate("zero_shot")
    assert not torch.equal(pairs[0].images, pairs[1].images)  # their styles are other ones
    assert torch.equal(pairs[0].masks, pairs[1].masks)
    assert set(pairs[0].groups) <= {"case-2", "case-3"}
    config = replace(config, sampling=replace(config.sampling, extrapolation=1.0))
    pairs = [LabelSubset(config, make_pair(c), 0, tmp_path / str(c)).generate("extrapolated") for c in (False, True)]
    assert set(pairs[0].groups) <= {"case-0", "case-1"}  # of the lenders there is nothing in them
    assert torch.equal(pairs[0].images, pairs[1].images)


def record_trainings(monkeypatch, config):
    """Train nothing, and list (folder, groups) of all that was to be trained."""
    trained, pipeline = [], SEDMPipeline.from_model(build_model(config.model, 3, SIZE, seed=0))

    def train(config, patches, folder, *arguments, **options):
        trained.append((folder, set(patches.groups)))
        return pipeline

    monkeypatch.setattr(subsets, "train_generator", train)
    monkeypatch.setattr(subsets, "make_autoencoder", train)
    return trained


def test_no_part_of_a_zero_shot_generator_sees_a_lender(config, tmp_path, monkeypatch):
    """Neither the autoencoder, nor the generator that it starts from, nor itself."""
    training = replace(config.training, unannotated="null_layout", symmetries="none", colour_jitter=0, class_jitter=0)
    config = replace(config, training=training, data=replace(config.data, n_annotated_groups=1))
    trained = record_trainings(monkeypatch, config)
    config = replace(config, model=replace(config.model, autoencoder="own", unshuffle=1))
    subset = LabelSubset(config, make_pair(), 0, tmp_path)
    _ = subset.zero_shot_generator
    assert [groups for _, groups in trained] == [{"case-0", "case-1"}] * 4  # two of them the autoencoder, loaded again
    of_zero_shot = {folder for folder, _ in trained}
    _ = subset.generator
    assert [groups for _, groups in trained[4:]] == [set(subset.train.groups)] * 4
    assert not of_zero_shot & {folder for folder, _ in trained[4:]}


def test_subsets_share_what_saw_the_same_images(config, tmp_path, monkeypatch):
    """Of one laboratory, the lenders of a subset are the annotated groups of another."""
    config = replace(config, training=replace(config.training, unannotated="null_layout"))
    trained = record_trainings(monkeypatch, config)
    drawn = [LabelSubset(config, make_study(), number, tmp_path) for number in range(6)]
    other = next(one for one in drawn if annotated_groups(one) != annotated_groups(drawn[0]))
    for subset in (drawn[0], other):
        _ = subset.generator, subset.zero_shot_generator
    groups_of = {}
    for folder, groups in trained:
        assert groups_of.setdefault(folder, groups) == groups
    assert len(groups_of) == 7  # one pretraining for both, one for each without its lenders, and four generators


def test_the_style_bank_that_is_kept_is_of_those_who_lend(config, tmp_path):
    config = replace(config, data=replace(config.data, n_annotated_groups=1))
    generator = SEDMPipeline.from_model(build_model(config.model, 3, SIZE, seed=0).eval())
    save_parts(LabelSubset(config, make_pair(), 0, tmp_path / "runs", generator), tmp_path)
    assert set(StyleBank.load(tmp_path / "style_bank.safetensors").groups) == {"case-2", "case-3"}
