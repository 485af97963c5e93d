"""Every slide of CATCH is looked at before any is cut: resolution, tissue, room for a patch, and what is told of it."""

import json

import numpy as np
import pytest
from drawn_slides import write_pyramid

from sedm.commands.data_command import main
from sedm.config.study import STUDIES
from sedm.data.archives import catch
from sedm.data.archives.catch import make_catch
from sedm.data.archives.catch_slides import TUMOURS, Sampling
from sedm.data.archives.public_tables import PublicTables
from sedm.data.patch_table import PatchTableError, load_patches
from sedm.data.patches import Patches

SMALL = Sampling(n_patches_per_slide=2, patch_size=16, microns_per_pixel=8.0, annotated_per_type=1)


def slide_names(n_patients):
    return [f"{kind}_{patient:02}_1.svs" for kind in ("MCT", "SCC") for patient in range(1, n_patients + 1)]


NAMES = slide_names(n_patients=4)
MICRONS = 4.0  # a slide is 128 px, 0.5 mm


def draw():
    """Dermis with a dark tumour inside, on glass."""
    picture = np.full((128, 128, 3), 243, np.uint8)
    picture[10:118, 10:118] = (235, 150, 190)
    picture[40:100, 30:90] = (120, 60, 160)
    return picture


def write_folder(folder, stated=lambda name: MICRONS, pictures=None, left_out=None, names=NAMES):
    """A folder of slides and ``CATCH.json``; ``stated``: the resolution that each file states, 0 for none."""
    (folder / "slides").mkdir(parents=True)
    for name in names:
        picture = (pictures or {}).get(name, draw())
        gaps = (left_out or {}).get(name)
        write_pyramid(folder / "slides" / name, picture, stated(name), factors=(1, 2), left_out=gaps)
    squares = {3: (10, 118, 10, 118), 8: (30, 90, 40, 100)}
    annotations = [
        {"image_id": row, "category_id": number, "segmentation": [left, top, right, top, right, bottom, left, bottom]}
        for row in range(len(names))
        for number, (left, right, top, bottom) in squares.items()
    ]
    content = {
        "images": [{"id": row, "file_name": name} for row, name in enumerate(names)],
        "categories": [{"id": 3, "name": "Dermis"}, {"id": 8, "name": TUMOURS["MCT"]}],
        "annotations": annotations,
    }
    (folder / "CATCH.json").write_text(json.dumps(content))
    return folder / "slides", folder / "CATCH.json"


@pytest.fixture
def uncut(monkeypatch):
    """Fails when a table is begun."""
    monkeypatch.setattr(catch, "spool", lambda *_: pytest.fail("began to cut"))


def fault(call, *arguments, error=PatchTableError, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tensors(made):
    return {split: Patches.from_table(table, STUDIES["catch"].classes) for split, table in made.tables.items()}


def test_all_slides_without_resolution_are_counted_before_any_is_cut(tmp_path, uncut):
    unstated = ("MCT_02_1.svs", "MCT_03_1.svs", "SCC_01_1.svs", "SCC_04_1.svs")
    arguments = write_folder(tmp_path, lambda name: 0 if name in unstated else MICRONS)
    message = fault(make_catch, *arguments, tmp_path / "cache", SMALL)
    assert message == (
        "4 of 8 slides do not say how large their pixels are (MCT_02_1.svs, MCT_03_1.svs, SCC_01_1.svs, …); give "
        "microns_per_pixel of their finest level (--microns-per-pixel on the command line; CATCH's is 0.2533)"
    )
    for name in unstated[1:]:
        write_pyramid(tmp_path / "slides" / name, draw(), MICRONS)
    message = fault(make_catch, *arguments, tmp_path / "cache", SMALL)
    assert message.startswith(f"{tmp_path / 'slides' / 'MCT_02_1.svs'}: the file states no resolution; give microns_")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_given_resolution_makes_the_tables_that_a_stated_one_makes(tmp_path):
    stated = write_folder(tmp_path / "stated")
    given = write_folder(tmp_path / "given", lambda name: 0)
    expected = tensors(make_catch(*stated, tmp_path / "a", SMALL))
    made = tensors(make_catch(*given, tmp_path / "b", SMALL, microns_per_pixel=MICRONS))
    for split, patches in expected.items():
        assert made[split].images.equal(patches.images)
        assert made[split].masks.equal(patches.masks)


@pytest.mark.slow
def test_a_slides_own_word_goes_first_and_a_warning_counts_those_that_differ(tmp_path):
    arguments = write_folder(tmp_path, lambda name: 0 if name == "MCT_02_1.svs" else 3.0 if "SCC" in name else MICRONS)
    with pytest.warns(UserWarning, match="microns_per_pixel=4 is not used for 4 of 8 slides") as caught:
        made = make_catch(*arguments, tmp_path / "cache", SMALL, microns_per_pixel=MICRONS)
    assert "(SCC_01_1.svs 3, SCC_02_1.svs 3, SCC_03_1.svs 3, …)" in str(caught[0].message)
    made.save(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- MCT_02_1.svs: 128×128 px of 4 µm (as given)" in card
    assert "- MCT_01_1.svs: 128×128 px of 4 µm (its TIFF tags)" in card
    assert "- SCC_01_1.svs: 128×128 px of 3 µm (its TIFF tags)" in card


def test_a_slide_without_tissue_is_known_before_any_is_cut_and_settings_help(tmp_path, uncut):
    palest = draw()
    palest[10:118, 10:118] = (242, 238, 242)
    arguments = write_folder(tmp_path, pictures=dict.fromkeys(NAMES, palest))
    message = fault(make_catch, *arguments, tmp_path / "cache", SMALL)
    assert "svs: no tissue found and no annotation to sample from (100.0 % glass" in message
    assert "lower min_density=0.04 or min_colour=0.012 for paler tissue" in message
    with pytest.raises(pytest.fail.Exception, match="began to cut"):
        make_catch(*arguments, tmp_path / "cache", Sampling(2, 16, 8.0, annotated_per_type=1, min_colour=0.005))


def test_patches_finer_than_a_slide_are_an_error_before_any_is_cut(tmp_path, uncut):
    arguments = write_folder(tmp_path, lambda name: 6.0 if name == "SCC_04_1.svs" else MICRONS)
    sampling = Sampling(2, 16, microns_per_pixel=4.0, annotated_per_type=1)
    message = fault(make_catch, *arguments, tmp_path / "cache", sampling, error=ValueError)
    assert message == f"{tmp_path / 'slides' / 'SCC_04_1.svs'}: has 6 µm/px at its finest, asked for 4"


@pytest.mark.slow
def test_the_card_tells_what_each_slide_shows_and_what_its_scanner_left_out(tmp_path, capsys):
    inked = draw()
    inked[120:] = (20, 60, 200)
    gaps = {0: [(0, 0)], 1: [(0, 0)]}
    arguments = write_folder(
        tmp_path, pictures=dict.fromkeys(NAMES, inked), left_out={name: gaps for name in NAMES if "MCT" in name}
    )
    paths = make_catch(*arguments, tmp_path / "cache", SMALL).save(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    lines = [line for line in card.splitlines() if line.startswith("- ") and ".svs: " in line]
    assert [line.split(": ")[0] for line in lines] == [f"- {name}" for name in NAMES]
    shown = capsys.readouterr().err
    for line in lines:
        assert ("tiles left out: 1 of 4 on level 0, 1 of 1 on level 1" in line) == ("MCT" in line)
        assert line.removeprefix("- ") in shown
    unannotated = [line for line in lines if "% tissue" in line]
    assert 0 < len(unannotated) < len(lines)  # where there are polygons, nothing hangs on the tissue
    assert all("% pen" in line for line in unannotated)
    assert all(("25.0 % left out" in line) == ("MCT" in line) for line in unannotated)
    for path in paths.values():
        assert (
            Patches.from_table(load_patches(path), STUDIES["catch"].classes).images.min() > 10
        )  # nothing black was cut


def test_the_command_line_hands_resolution_and_tissue_settings_on(tmp_path, monkeypatch):
    slides, annotations = write_folder(tmp_path, lambda name: 0, names=slide_names(n_patients=12))
    given = {}
    tables = PublicTables(tables={}, about="", notes=[])
    monkeypatch.setattr(catch, "make_catch", lambda *arguments, **options: given.update(options) or tables)
    command = ["catch", str(slides), str(tmp_path / "out"), "--annotations", str(annotations)]
    main(command)
    assert (given["sampling"], given["microns_per_pixel"]) == (Sampling(), None)
    main(
        [
            *command,
            "--microns-per-pixel",
            "4",
            "--min-colour",
            "0.005",
            "--min-area-mm2",
            "0",
            "--no-leave-out-pen",
            "--glass",
            "235",
            "228",
            "205",
        ]
    )
    assert given["microns_per_pixel"] == 4
    assert given["sampling"] == Sampling(min_colour=0.005, min_area_mm2=0, leave_out_pen=False, glass=(235, 228, 205))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"24 of 24 slides do not say .*--microns-per-pixel on the command line"):
        main(command)
    with pytest.raises(ValueError, match="smaller than a patch of 1024 µm"):  # the resolution was taken
        main([*command, "--microns-per-pixel", "4"])
    with pytest.raises(ValueError, match=r"min_colour=-1\.0; it must be 0 or more"):
        main([*command, "--min-colour", "-1"])
