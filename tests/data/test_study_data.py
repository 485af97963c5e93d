"""The data of a study: whose masks are known, who is held out, and what changes the checksum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CLASSES

from sedm.config import build_config
from sedm.config.study import STUDIES
from sedm.data.patch_table import PatchTableError, from_arrays, save_patches
from sedm.data.patches import Patches
from sedm.data.study_data import StudyData, load_study


@pytest.fixture(scope="module")
def tissue_data():
    return load_study(build_config("tissue", "smoke"))


def patches_of(*groups) -> Patches:
    """A black, annotated patch for each group."""
    images = torch.zeros(len(groups), 3, 8, 8, dtype=torch.uint8)
    return Patches(images, images[:, 0], list(groups), CLASSES)


def test_a_study_has_its_classes_its_size_and_all_its_masks(tissue_data):
    config = build_config("tissue", "smoke")
    assert list(tissue_data.patches) == ["train", "validation", "test", "shifted"]
    for split, patches in tissue_data.patches.items():
        decoded = Patches.from_table(tissue_data.tables[split], STUDIES["tissue"].classes, config.data.image_size)
        assert patches.images.equal(decoded.images)
        assert patches.masks.equal(decoded.masks)
        assert patches.classes == ("stroma", "epithelium", "lumen")
        assert patches.is_annotated.all()
        assert patches.groups == tissue_data.tables[split]["group"][:]
    assert tissue_data.train is tissue_data.patches["train"]
    assert tissue_data.validation is tissue_data.patches["validation"]
    assert tissue_data.test is tissue_data.patches["test"]
    assert list(tissue_data.held_out) == ["validation", "test", "shifted"]


def test_the_embedded_tissue_has_a_shifted_population_of_other_patients(tissue_data):
    assert set(tissue_data.tables["shifted"]["population"][:]) == {"shifted"}
    assert set(tissue_data.tables["test"]["population"][:]) == {"source"}
    assert not set(tissue_data.patches["shifted"].groups) & set(tissue_data.train.groups)


def test_a_study_without_validation_groups_says_so():
    data = StudyData(STUDIES["ebhi"], {}, {"train": patches_of("a"), "test": patches_of("b")})
    with pytest.raises(ValueError, match="the study has no validation groups to train a judge of layouts on"):
        data.validation  # noqa: B018


@pytest.mark.parametrize("seed", [0, 5])
def test_a_label_subset_has_the_masks_of_as_many_groups(tissue_data, seed):
    train = tissue_data.train
    for n in (1, 2):
        subset = tissue_data.label_subset(n, seed)
        kept = set(np.random.default_rng(seed).permutation(sorted(set(train.groups)))[:n].tolist())
        assert {group for group, told in zip(subset.groups, subset.is_annotated, strict=True) if told} == kept
        assert subset.is_annotated.tolist() == [group in kept for group in train.groups]
        assert subset.images is train.images
    assert tissue_data.train.is_annotated.all()  # its masks stay for those who measure
    assert tissue_data.label_subset(0, seed) is train


def test_natural_images_keep_all_their_masks():
    data = load_study(build_config("flowers", "smoke"))
    assert data.label_subset(1, seed=0) is data.train


def test_groups_that_are_new_are_held_out_and_further_photographs_of_others_are_not():
    splits = {"train": patches_of("a", "a", "b"), "test": patches_of("b", "c"), "shifted": patches_of("d", "a")}
    assert StudyData(STUDIES["pets"], {}, splits).held_out_groups == {"c", "d"}


def test_no_group_of_another_split_may_train_in_a_study_of_patients(tissue_data):
    others = {group for split in ("validation", "test", "shifted") for group in tissue_data.patches[split].groups}
    assert tissue_data.held_out_groups == others
    assert not others & set(tissue_data.train.groups)


@pytest.mark.parametrize("change", ["image", "mask", "group", "split"])
def test_the_checksum_changes_with_any_pixel_mask_or_group(change):
    splits = {"train": patches_of("a", "b"), "test": patches_of("c")}
    before = StudyData(STUDIES["ebhi"], {}, splits).checksum
    assert StudyData(STUDIES["ebhi"], {}, dict(splits)).checksum == before
    test = splits["test"]
    images, masks = test.images.clone(), test.masks.clone()
    images[0, 2, 7, 7] = 1
    masks[0, 7, 7] = 1
    splits["test"] = {
        "image": replace(test, images=images),
        "mask": replace(test, masks=masks),
        "group": replace(test, groups=["d"]),
        "split": patches_of("c", "c"),
    }[change]
    assert StudyData(STUDIES["ebhi"], {}, splits).checksum != before


def test_what_a_generator_made_is_read_as_generated(tmp_path):
    """A table of synthetic images may be a study's training split; nobody annotated it."""
    pixels, masks = np.zeros((2, 32, 32, 3), np.uint8), np.ones((2, 32, 32), np.uint8)
    sources = ["generated", "annotated"]
    for split, groups in (("train", "ab"), ("test", "cd")):
        table = from_arrays(pixels, masks, list(groups), mask_source=sources if split == "train" else ["annotated"] * 2)
        save_patches(table.rename_column("group", STUDIES["ebhi"].group_column), tmp_path / f"{split}.parquet")
    data = load_study(build_config("ebhi", "smoke"), tmp_path)
    assert data.train.mask_source == sources
    assert data.train.annotated().groups == ["b"]


@pytest.mark.parametrize("source", ["generated", "predicted"])
def test_nobody_is_tested_on_masks_that_a_network_made(source, tmp_path):
    pixels, masks = np.zeros((2, 32, 32, 3), np.uint8), np.ones((2, 32, 32), np.uint8)
    for split, groups in (("train", "ab"), ("test", "cd")):
        table = from_arrays(pixels, masks, list(groups), mask_source=["annotated", source])
        save_patches(table.rename_column("group", STUDIES["ebhi"].group_column), tmp_path / f"{split}.parquet")
    with pytest.raises(PatchTableError, match=rf"test.parquet: has {source} masks; test on masks that people made"):
        load_study(build_config("ebhi", "smoke"), tmp_path)
