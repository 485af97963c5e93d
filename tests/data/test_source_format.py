"""What a caller may say of how pictures are stored: in the words of a study file, and refused before any is read."""

import tomllib
from dataclasses import fields

import pytest

from sedm.data.source_format import SourceFormat


def test_every_field_can_be_written_in_a_study_file():
    text = """
        images = "photos"
        masks = "truth"
        group_level = [1, 2]
        mask_column = ""
        alpha = "#ffffff"
        intensity_range = [0, 4095]
        scale = 0.5
        tile_size = 64
        microns_per_pixel = 0.25
        unknown = [9, 10]
        [classes]
        stroma = 0
        tumour = [1, 2]
    """
    form = SourceFormat(**tomllib.loads(text))
    assert form.coding == {0: 0, 1: 1, 2: 1, 9: 255, 10: 255}
    assert form.n_classes == 2
    assert form.levels == (1, 2)
    assert SourceFormat(**{field.name: getattr(form, field.name) for field in fields(form)}) == form


@pytest.mark.parametrize(
    ("form", "n_classes"),
    [
        ({}, None),
        ({"classes": {"a": 0, "b": 1, "c": 2}}, 3),
        ({"mask_values": {0: 0, 7: 4, 9: 255}}, 5),
        ({"mask_threshold": 127}, 2),
        ({"mask_kind": "instances"}, 2),
        ({"mask_kind": "run-lengths"}, 2),
    ],
)
def test_the_number_of_classes_follows_from_what_masks_mean(form, n_classes):
    assert SourceFormat(**form).n_classes == n_classes


def test_classes_that_are_their_own_indices_are_names_beside_any_other_way():
    names = {"a": 0, "b": 1}
    for way in ({"mask_threshold": 127}, {"mask_kind": "instances"}, {"mask_values": {0: 0, 9: 1}}):
        form = SourceFormat(classes=names, **way)
        assert form.n_classes == 2
        assert form.coding == way.get("mask_values")
        assert form.changes_masks


def test_classes_that_are_their_own_indices_need_no_translation():
    assert SourceFormat(classes={"a": 0, "b": 1}, unknown=255).coding is None
    assert SourceFormat(classes={"b": 1, "a": 0}).coding == {1: 0, 0: 1}


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"classes": {"a": 0, "b": 0}}, "0 is a value of 'a' and of 'b'; give each its own"),
        ({"classes": {"a": "red", "b": "#ff0000"}}, "(255, 0, 0) is a value of 'a' and of 'b'"),
        ({"classes": {"a": []}}, "class 'a' has no values"),
        ({"classes": {"a": "reddish"}}, "class 'a': 'reddish' is no colour; write it as '#rrggbb'"),
        ({"classes": {"a": "#ff000080"}}, "class 'a': '#ff000080' is transparent itself"),
        ({"classes": {"a": 0.5}}, "class 'a': 0.5; a value is a whole number or a colour"),
        ({"classes": {"a": True}}, "class 'a': True; a value is a whole number or a colour"),
        ({"classes": {"a": 0, "b": "red"}}, "give the class of each value, or of each colour"),
        ({"classes": ["a", "b"]}, "classes=['a', 'b']; name the value of each class"),
        ({"classes": {"a": 0}, "unknown": 0}, "0 is a value of 'a' and of 'unknown'"),
        ({"classes": {"a": 9}, "mask_values": {0: 0}}, "classes={'a': 9} and mask_values={0: 0}; give one of them"),
        ({"classes": {"a": 9}, "mask_threshold": 127}, "classes={'a': 9} and mask_threshold=127; give one of them"),
        ({"mask_values": {0: 0}, "unknown": 1}, "give one of them"),
        ({"mask_kind": "objects"}, "mask_kind='objects'; choose one of classes, instances, run-lengths"),
        (
            {"mask_kind": "instances", "classes": {"a": 9}},
            "classes with mask_kind='instances', which is 0 and 1 already",
        ),
        ({"mask_threshold": 255}, "mask_threshold=255; it lies in 0…254"),
        ({"group_level": 0}, "group_level=0; 1 is a folder in images/"),
        ({"group_level": [1, "2"]}, "group_level=[1, '2']; 1 is a folder in images/"),
        ({"alpha": "see-through"}, "alpha: 'see-through' is no colour"),
        ({"intensity_range": "percent"}, "intensity_range='percent'; give [low, high]"),
        ({"intensity_range": [4095, 0]}, "intensity_range=[4095, 0]; give [low, high]"),
        ({"intensity_range": [0, float("nan")]}, "give [low, high]"),
        ({"intensity_range": 4095}, "intensity_range=4095; give [low, high]"),
        ({"scale": 0}, "scale=0; give a number above 0"),
        ({"scale": "half"}, "scale='half'; give a number above 0"),
        ({"tile_size": 64.5}, "tile_size=64.5; give a whole number of pixels"),
        ({"tile_size": -64}, "tile_size=-64; give a whole number of pixels"),
        ({"microns_per_pixel": float("inf")}, "microns_per_pixel=inf; give a number above 0"),
        ({"mask_column": None}, "mask_column=None; give text, or '' for none"),
        ({"images": 7}, "images=7; give text"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_name_of_its_field(unchecked, form, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        SourceFormat(**form)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
