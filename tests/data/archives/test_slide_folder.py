"""A folder of slides with annotations beside them becomes a balanced patch table, or one sentence says why not."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from drawn_slides import write_pyramid
from PIL import Image

from sedm.commands.data_command import main
from sedm.data.patch_table import PatchTableError, check_patches, load_patches
from sedm.data.patches import Patches
from sedm.data.places import PLACE_COLUMNS
from sedm.data.slides.slide_classes import SlideClasses
from sedm.data.slides.slide_settings import SlideSettings

STROMA, TUMOUR, GLASS = (235, 150, 190), (120, 60, 160), (243, 243, 243)
MICRONS = 4.0  # a slide is 256 px, about 1 mm
LIMITS = {"stroma": (20, 230), "tumour": (60, 200), "hole": (100, 140)}  # of squares, in pixels, each on the last
SMALL = ["--patch-size", "16", "--patch-microns-per-pixel", "8", "--patches-per-slide", "12"]


def draw():
    """Stroma on glass, in it a tumour, in that a hole of stroma."""
    picture = np.full((256, 256, 3), GLASS, np.uint8)
    for name, colour in (("stroma", STROMA), ("tumour", TUMOUR), ("hole", STROMA)):
        picture[slice(*LIMITS[name]), slice(*LIMITS[name])] = colour
    return picture


def ring(name):
    first, last = LIMITS[name]
    return [[first, first], [last, first], [last, last], [first, last], [first, first]]


def geojson(tumour="Tumor"):
    features = [
        {"geometry": {"type": "Polygon", "coordinates": [ring("tumour"), ring("hole")]}, "name": tumour},
        {"geometry": {"type": "Polygon", "coordinates": [ring("stroma")]}, "name": "Stroma"},
    ]
    return json.dumps(
        [
            {
                "type": "Feature",
                "geometry": one["geometry"],
                "properties": {"objectType": "annotation", "classification": {"name": one["name"]}},
            }
            for one in features
        ]
    )


def asap():
    text = ""
    for name, group in (("stroma", "Stroma"), ("hole", "Exclusion"), ("tumour", "metastasis")):  # the hole below
        corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(ring(name)))
        content = f"<Coordinates>{corners}</Coordinates>"
        text += f'<Annotation Name="a" Type="Polygon" PartOfGroup="{group}">{content}</Annotation>'
    return f"<ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>"


def imagescope():
    text = ""
    for layer, regions in (("Stroma", [("stroma", 0)]), ("Tumor", [("tumour", 0), ("hole", 1)])):
        drawn = ""
        for name, negative in regions:
            corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ring(name))
            drawn += f'<Region Type="0" NegativeROA="{negative}"><Vertices>{corners}</Vertices></Region>'
        text += f'<Annotation Name="{layer}"><Regions>{drawn}</Regions></Annotation>'
    return f"<Annotations>{text}</Annotations>"


@pytest.fixture
def folder(tmp_path):
    """Five slides of three patients: one annotated in QuPath, ASAP and ImageScope each, two not at all."""
    folder = tmp_path / "slides"
    (folder / "more").mkdir(parents=True)
    for name in ("p1_a", "p1_b", "p2_a", "p2_b", "more/p3_a"):
        write_pyramid(folder / f"{name}.tif", draw(), MICRONS, factors=(1, 2))
    (folder / "p1_a.geojson").write_text(geojson())
    (folder / "p2_a.xml").write_text(asap())
    (folder / "more" / "p3_a.tif.xml").write_text(imagescope())
    return folder


CLASSES = ["--classes", "other=Stroma,Exclusion", "tumour=Tumor,metastasis", "--on-top", "Exclusion"]
GROUPS = ["--group-pattern", r"(p\d)_"]


def make(folder, out, *options):
    main(["slides", str(folder), str(out), *SMALL, *options])
    return load_patches(out / "patches.parquet")


def fault(*arguments, error=ValueError) -> str:
    """The one line in which the command ends, with nothing written."""
    out = arguments[0].parent / "nothing"
    with pytest.raises(error) as caught:
        make(arguments[0], out, *arguments[1:])
    assert "\n" not in str(caught.value)
    assert not (out / "patches.parquet").exists()
    assert not (out / ".cache").exists()
    return str(caught.value)


def test_a_folder_becomes_a_balanced_table_with_the_masks_of_its_picture(folder, tmp_path):
    table = make(folder, tmp_path / "out", *CLASSES, *GROUPS)
    check_patches(table, n_classes=2)
    assert set(PLACE_COLUMNS) < set(table.column_names)
    assert Counter(zip(table["group"], table["slide"], strict=True)) == dict.fromkeys(
        [("p1", "p1_a.tif"), ("p1", "p1_b.tif"), ("p2", "p2_a.tif"), ("p2", "p2_b.tif"), ("p3", "p3_a.tif")], 12
    )
    n_tumour = 0
    for row in table:
        assert (row["mask"] is None) == row["slide"].endswith("_b.tif")
        if row["mask"] is None:
            continue
        mask = np.asarray(row["mask"])
        x, y = round(row["x_microns"] / MICRONS), round(row["y_microns"] / MICRONS)
        at_centres = draw()[y + 1 : y + 32 : 2, x + 1 : x + 32 : 2]  # a centre on an edge belongs to its right
        assert ((mask == 1) == (at_centres == TUMOUR).all(2)).all()
        n_tumour += mask[8, 8] == 1
    assert 9 <= n_tumour <= 27  # of 36, drawn with equal chance
    patches = Patches.from_table(table, ("other", "tumour"))
    assert len(patches.places) == 60


def test_places_are_those_of_the_pictures(folder, tmp_path):
    for row in make(folder, tmp_path / "out", *CLASSES, *GROUPS):
        x, y = row["x_microns"] / MICRONS, row["y_microns"] / MICRONS
        expected = Image.fromarray(draw()).resize((16, 16), Image.Resampling.LANCZOS, (x, y, x + 32, y + 32))
        assert np.abs(np.asarray(row["image"]).astype(int) - np.asarray(expected)).mean() < 3
        assert row["microns_per_pixel"] == 8


def test_the_order_of_overlapping_classes_is_stated(folder, tmp_path):
    """ASAP's hole was drawn below the tumour: without a word of it, the tumour covers it."""
    for out, on_top in (("as_drawn", []), ("on_top", ["--on-top", "Exclusion"])):
        table = make(folder, tmp_path / out, *CLASSES[:3], *on_top, *GROUPS)
        masks = [np.asarray(row["mask"]) for row in table if row["slide"] == "p2_a.tif"]
        boxes = [(row["x_microns"], row["y_microns"]) for row in table if row["slide"] == "p2_a.tif"]
        inside = [
            mask[r, c]
            for mask, (x, y) in zip(masks, boxes, strict=True)
            for r in range(16)
            for c in range(16)
            if all(4 * 100 < at + 8 * k + 4 < 4 * 140 for at, k in ((x, c), (y, r)))
        ]
        assert len(inside) > 20
        assert set(inside) == {0 if on_top else 1}
        note = f"on top, in this order: {'Exclusion' if on_top else 'none'}."
        assert note in (tmp_path / out / "README.md").read_text()


def test_the_same_table_comes_out_again_and_after_a_killed_run(folder, tmp_path):
    first = tmp_path / "a"
    make(folder, first, *CLASSES, *GROUPS)
    again = tmp_path / "b"
    (again / ".cache").mkdir(parents=True)
    (again / ".cache" / "patches.arrow").write_bytes(b"half a table")
    make(folder, again, *CLASSES, *GROUPS)
    assert (first / "patches.parquet").read_bytes() == (again / "patches.parquet").read_bytes()
    assert sorted(path.name for path in again.iterdir()) == ["README.md", "patches.parquet"]
    other = make(folder, tmp_path / "c", *CLASSES, *GROUPS, "--seed", "1")
    assert other["x_microns"] != load_patches(first / "patches.parquet")["x_microns"]


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_run_leaves_no_final_name_and_is_begun_again(root, folder, tmp_path):
    command = [sys.executable, "-m", "sedm", "data", "slides", str(folder), str(tmp_path / "out"), *SMALL, *CLASSES]
    command[command.index("12")] = "4000"
    started = subprocess.Popen([*command, *GROUPS], cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    for line in iter(lambda: started.stderr.read1(256), b""):
        if b"patches:" in line:  # the bar of the table
            break
    started.kill()
    started.communicate()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".cache"]
    table = make(folder, tmp_path / "out", *CLASSES, *GROUPS)
    assert len(table) == 60
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "patches.parquet"]


def test_classes_are_those_of_the_annotations_when_left_out(folder, tmp_path):
    (folder / "p2_a.xml").unlink()
    table = make(folder, tmp_path / "out", *GROUPS)
    values = {value for row in table if row["mask"] is not None for value in np.unique(np.asarray(row["mask"]))}
    assert values <= {0, 1, 2}
    assert {1, 2} <= values
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Mask: 0 background, 1 Stroma, 2 Tumor; ground that nobody outlined is 0 (background)." in card
    assert "2 of 5 slides are annotated." in card
    assert "| p1_a.geojson |" in card


def test_slides_without_any_annotation_are_a_table_without_masks(folder, tmp_path):
    for path in [*folder.rglob("*.xml"), *folder.rglob("*.geojson")]:
        path.unlink()
    assert make(folder, tmp_path / "out")["mask"][:] == [None] * 60
    message = fault(folder, *CLASSES)
    assert message == f"{folder}: no annotations of any slide; expected files such as p3_a.geojson, or no classes"


def test_annotations_may_lie_elsewhere_or_in_one_file_of_all_slides(folder, tmp_path):
    elsewhere = tmp_path / "drawn"
    elsewhere.mkdir()
    for path in [*folder.rglob("*.xml"), *folder.rglob("*.geojson")]:
        path.rename(elsewhere / path.name)
    table = make(folder, tmp_path / "a", *CLASSES, *GROUPS, "--annotations", str(elsewhere))
    assert sum(mask is not None for mask in table["mask"]) == 36
    content = {
        "images": [{"id": 1, "file_name": "p1_a.tif"}, {"id": 2, "file_name": "p2_b.tif"}, {"id": 3, "file_name": "z"}],
        "categories": [{"id": 3, "name": "Tumor"}],
        "annotations": [{"image_id": 1, "category_id": 3, "segmentation": [np.ravel(ring("tumour")).tolist()]}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    table = make(folder, tmp_path / "b", *CLASSES[:3], *GROUPS, "--annotations", str(tmp_path / "all.json"))
    assert {row["slide"] for row in table if row["mask"] is not None} == {"p1_a.tif"}


def test_groups_come_from_a_table_a_pattern_or_the_slides(folder, tmp_path):
    assert set(make(folder, tmp_path / "a", *CLASSES)["group"]) == {"p1_a", "p1_b", "p2_a", "p2_b", "more/p3_a"}
    csv = tmp_path / "patients.csv"
    csv.write_text("slide;group\np1_a;7\np1_b.tif;7\np2_a;8\np2_b;8\nmore/p3_a.tif;Mary\n")
    table = make(folder, tmp_path / "b", *CLASSES, "--groups", str(csv))
    assert Counter(table["group"]) == {"7": 24, "8": 24, "Mary": 12}
    csv.write_text("slide;group\np1_a;7\np1_b.tif;7\np2_a;8\nmore/p3_a.tif;Mary\n")
    assert fault(folder, *CLASSES, "--groups", str(csv)) == f"{csv}: no group for the slide p2_b.tif; add a line for it"
    csv.write_text("slide;group\np1_a;7\np1_a;8\n")
    assert f"{csv}, line 3: slide 'p1_a' has two groups" in fault(folder, *CLASSES, "--groups", str(csv))
    assert "p2_a.tif: no group found in its name by 'p[13]'" in fault(folder, *CLASSES, "--group-pattern", "p[13]")
    assert "group_pattern='(' is no regular expression" in fault(folder, *CLASSES, "--group-pattern", "(")
    write_pyramid(folder / "more" / "p1_a.tif", draw(), MICRONS)
    assert "2 slides of group 'p1' are named p1_a.tif; rename all but one" in fault(folder, *CLASSES, *GROUPS)


def test_resolution_is_filled_in_or_overridden(folder, tmp_path):
    write_pyramid(folder / "p1_b.tif", draw(), microns=0)
    assert "the file states no resolution; give microns_per_pixel" in fault(folder, *CLASSES)
    with pytest.warns(UserWarning, match="is not used for 4 of 5 slides"):
        table = make(folder, tmp_path / "a", *CLASSES, "--microns-per-pixel", "2")
    widest = {name: max(row["x_microns"] for row in table if row["slide"] == name) for name in set(table["slide"])}
    assert widest["p1_b.tif"] < 2 * 256 < widest["p1_a.tif"]
    with pytest.warns(UserWarning, match="states 4 µm/px; read as 2, as given"):
        table = make(folder, tmp_path / "b", *CLASSES, "--microns-per-pixel", "2", "--override-resolution")
    assert max(table["x_microns"]) < 2 * 256
    assert fault(folder, *CLASSES, "--override-resolution") == "--override-resolution needs --microns-per-pixel"


def test_faults_are_named_before_any_slide_is_cut(folder, tmp_path):
    assert (
        f"{folder}/p2_a.xml: class 'metastasis' is none of other, Stroma, Exclusion, tumour, Tumor; add it to a"
        in fault(folder, "--classes", "other=Stroma,Exclusion", "tumour=Tumor")
    )
    (folder / "p1_a.xml").write_text(imagescope())
    assert f"{folder}/p1_a.tif: two annotation files, p1_a.geojson and p1_a.xml; take one away" in fault(
        folder, *CLASSES
    )
    (folder / "p1_a.xml").unlink()
    (folder / "p1_a.geojson").write_text(geojson().replace("classification", "classificatiom"))
    with pytest.warns(UserWarning, match="no class"):
        message = fault(folder, *CLASSES)
    assert message.startswith(f"{folder}/p1_a.geojson: no polygon of a class in it; take it away where")
    with pytest.warns(UserWarning, match="no class"):
        assert "p1_a.geojson: no polygon of a class in it" in fault(folder, *CLASSES, "--ignore", "ROI")
    (folder / "p1_a.geojson").write_text("{")
    assert "p1_a.geojson: neither SQLite, nor XML, nor readable JSON" in fault(folder, *CLASSES)
    (folder / "p1_a.geojson").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "b.tif"}], "categories": [], "annotations": []})
    )
    assert "p1_a.geojson: no image named p1_a.tif or p1_a in it; it has b.tif" in fault(folder, *CLASSES)
    (folder / "p1_a.geojson").write_text(geojson().replace("[60, 60]", "[9060, 60]"))
    (folder / "p1_b.tif").write_bytes(b"no slide")
    assert f"{folder}/p1_b.tif: not a readable slide" in fault(folder, *CLASSES)
    assert f"{tmp_path}/none: no such folder; expected slides" in fault(tmp_path / "none")
    assert "no such file or folder of annotations" in fault(folder, "--annotations", str(tmp_path / "nowhere"))
    assert fault(folder, "--ignore", "ROI") == "--ignore and --on-top need --classes"


def test_polygons_that_leave_their_slide_are_clipped_and_counted(folder, tmp_path):
    outside = geojson().replace("[230, 230], [20, 230]", "[9000, 9000], [20, 9000]")
    (folder / "p1_a.geojson").write_text(outside)
    with pytest.warns(UserWarning, match="p1_a.tif: 0 of 2 polygons lie wholly and 1 partly outside of the slide"):
        table = make(folder, tmp_path / "out", *CLASSES, *GROUPS)
    assert max(table["x_microns"]) <= (256 - 32) * MICRONS
    assert "p1_a.tif 0 and 1" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (["other"], {}, "classes: other; give a background and at least one class"),
        (["other", "other"], {}, "classes: 'other' is there twice"),
        (["other=A", "tumour=A"], {}, "classes: 'A' is there twice; give each annotation class one mask value"),
        (["other=A", "A"], {}, "classes: 'A' is there twice"),
        (["other", "tumour"], {"ignored": ["tumour"]}, "classes: 'tumour' is there twice"),
        (["other", "tumour"], {"on_top": ["hole"]}, "on_top: 'hole' is none of the classes other, tumour"),
    ],
)
def test_faults_of_classes_are_named(texts, options, words):
    with pytest.raises(ValueError, match="^" + words.replace(".", r"\.")):
        SlideClasses.parse(texts, **options)


def test_faults_of_settings_are_named():
    with pytest.raises(ValueError, match="patch_size=-1; it must be greater than 0"):
        SlideSettings(patch_size=-1)
    with pytest.raises(PatchTableError):
        main(["slides", "nowhere", "out"])


@pytest.mark.parametrize("source", ["slides", "catch", "ebhi", "flowers102"])
def test_help_shows_an_example_and_the_options_of_the_source_alone(source, capsys):
    with pytest.raises(SystemExit) as ended:
        main([source, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"example:\n  sedm data {source} " in said
    assert ("--glass" in said) == (source in ("slides", "catch"))
    assert ("--seen" in said) == (source == "flowers102")
    assert ("--on-top" in said) == (source == "slides")
