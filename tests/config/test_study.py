"""Studies are files: the built-in ones and a user's are read alike, and each fault is named with its key."""

import pytest

from sedm.config import PRESETS, STUDIES, build_config, find_study, flatten, read_study


@pytest.fixture
def write(tmp_path):
    """Write a study.toml, and return its path."""

    def write_study(text, folder="my glands"):
        path = tmp_path / folder / "study.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_study


CLASSES = "[classes]\nstroma = 0\ngland = 255\n"


def test_a_study_beside_images_is_found_by_file_and_by_folder(write):
    path = write(f'title = "Our glands"\ncite = "Us 2026"\nlicence = "CC0"\n{CLASSES}')
    study = read_study(path)
    assert (
        study == find_study(str(path)) == find_study(path.parent) == find_study(str(path.parent)) == find_study(study)
    )
    assert (study.name, study.file, study.classes) == ("my_glands", path, ("stroma", "gland"))
    assert (study.class_values, study.attribution) == ({"stroma": 0, "gland": 255}, "Us 2026, CC0")
    assert not study.redistributable  # unless they say so, nobody's images are shown to others


def test_classes_without_values_are_class_indices(write):
    study = read_study(write('classes = ["stroma", "gland"]'))
    assert (study.classes, study.class_values) == (("stroma", "gland"), None)


def test_the_built_in_studies_are_files_of_the_same_form():
    for name, study in STUDIES.items():
        assert (study.name, study.file, find_study(name)) == (name, None, study)
        assert study.title
        for preset in PRESETS:
            assert flatten(build_config(name, preset))["study"] == name


def test_a_file_changes_settings_of_one_preset_alone(write):
    changes = "[presets.quick]\ntraining.n_steps = 7\nlayouts.learned.n_steps = 9\narms.label_counts = [2, 3]\n"
    changes += "sampling.guidance_scale = 2\n"
    path = write(CLASSES + changes)
    usual, changed = (flatten(build_config(study, "quick")) for study in ("ebhi", path))
    assert changed["training.n_steps"] == 7
    assert changed["layouts.learned.n_steps"] == 9
    assert changed["arms.label_counts"] == (2, 3)
    assert changed["sampling.guidance_scale"] == 2
    assert changed["data.n_annotated_groups"] == 0  # all that people annotated
    others = ("training.n_steps", "layouts.learned.n_steps", "arms.label_counts", "sampling.guidance_scale")
    others += ("study", "layouts.prior", "data.n_annotated_groups")
    assert {k: v for k, v in changed.items() if k not in others} == {k: v for k, v in usual.items() if k not in others}
    assert flatten(build_config(path, "full"))["training.n_steps"] == PRESETS["full"]["training"].n_steps


def test_upright_images_are_mirrored_and_never_turned(write):
    for text, kind in ((CLASSES, "square"), (f"upright = true\n{CLASSES}", "mirror")):
        assert build_config(write(text), "quick").training.symmetries == kind


def test_a_table_in_place_of_its_study_is_sent_to_check(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("image,mask,group\n")
    with pytest.raises(ValueError, match=r"table\.csv: give the study\.toml that describes it; sedm check --write"):
        find_study(table)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "key 'classes': None; name the classes"),
        ("classes = []", "name the classes"),
        ("classes = [1, 2]", "name the classes"),
        ('classes = "gland"', "name the classes"),
        ('classes = ["gland", "gland"]', "name each class once"),
        ("title = Our glands", "no TOML"),
        (f"clases = 1\n{CLASSES}", r"key='clases'; choose one of .*did you mean 'classes'"),
        (f"title = 7\n{CLASSES}", "key 'title': 7; give a text"),
        (f'stained = "yes"\n{CLASSES}', "key 'stained': 'yes'; give true or false"),
        (f'data = "images"\n{CLASSES}', "key 'data': 'images'; give a table"),
        (f'question = "colours"\n{CLASSES}', "key 'question': 'colours'; choose one of segmentation, styles"),
        (f'name = "tissue"\n{CLASSES}', "'tissue' is built in; choose another"),
        (f'name = "../glands"\n{CLASSES}', "give small letters, digits, - and _"),
        (f'file = "x"\n{CLASSES}', "key='file'; choose one of"),
        (f"{CLASSES}[presets.quick]\ntraining = 3", "give settings, as training.n_steps = 2000"),
    ],
)
def test_a_fault_of_the_file_is_named_with_its_key(write, text, words):
    with pytest.raises(ValueError, match=words) as refused:
        read_study(write(text))
    assert "study.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[presets.quik]\ntraining.n_steps = 3", r"preset='quik'; .*did you mean 'quick'"),
        ("[presets.quick]\ntrainng.n_steps = 3", r"section='trainng'; .*did you mean 'training'"),
        ("[presets.quick]\ntraining.n_step = 3", r"key 'presets.quick.training': setting='n_step'; .*'n_steps'"),
        (
            '[presets.quick]\ntraining.n_steps = "many"',
            r"key 'presets.quick.training.n_steps': 'many'; give a value as",
        ),
        ("[presets.quick]\ntraining.n_steps = -1", r"key 'presets.quick.training': n_steps=-1; it must be"),
        ("[presets.quick]\ndata.image_size = 60", r"image_size=60; it must be a multiple of 16"),
    ],
)
def test_a_setting_that_there_is_not_is_named_with_the_file(write, text, words):
    path = write(CLASSES + text)
    for study in (path, str(path)):
        with pytest.raises(ValueError, match=words) as refused:
            build_config(study, "quick")
        assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", ["no/such/study.toml", "none.toml"])
def test_a_file_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        find_study(name)
