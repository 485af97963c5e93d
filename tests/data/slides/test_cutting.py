"""Whole slides: what is read, outlined and sampled is where the picture has it, and CATCH becomes patch tables."""

import json
import sqlite3
from collections import Counter

import numpy as np
import pytest
import tifffile
from matplotlib.path import Path as Outline
from PIL import Image
from scipy import ndimage
from tiffslide import TiffSlide

from sedm.data.archives.catch import make_catch
from sedm.data.archives.catch_slides import (
    CLASS_SETS,
    TUMOURS,
    Sampling,
    choose_annotated,
    parse_slide_name,
    read_split_file,
    split_slides,
)
from sedm.data.patch_table import UNKNOWN, PatchTableError, check_patches, load_patches
from sedm.data.patches import Patches
from sedm.data.slides import slide_jobs
from sedm.data.slides.annotations import read_polygons
from sedm.data.slides.cutting import sample_patches, sample_positions
from sedm.data.slides.polygons import as_polygon, rasterise, topmost
from sedm.data.slides.sections import Tissue, find_tissue, otsu_threshold
from sedm.data.slides.slide import Slide
from sedm.data.splits import check_splits

# a slide of 1536×1024 px of 2 µm: a tumour with dermis inside and a nodule in that, epidermis, tissue nobody outlined,
# a speck of dirt, on glass
WIDTH, HEIGHT, MICRONS = 1536, 1024, 2.0
COLOURS = {"glass": (242, 241, 243), "Dermis": (235, 150, 190), "SCC": (120, 60, 160), "Epidermis": (200, 60, 120)}
BINARY = CLASS_SETS["tumour"][1]
TISSUE_SET = CLASS_SETS["tissue"][1]

# Source of the columns and their order: SlideRunner/dataAccess/database.py
SLIDERUNNER = """
CREATE TABLE `Log` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `dateTime` FLOAT, `labelId` INTEGER);
CREATE TABLE `Slides` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `filename` TEXT, `width` INTEGER,
    `EXACTUSER` INTEGER DEFAULT 0, `height` INTEGER, `directory` TEXT, `uuid` TEXT, `exactImageID` TEXT);
CREATE TABLE `Annotations` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `guid` TEXT, `deleted` INTEGER DEFAULT 0,
    `slide` INTEGER, `type` INTEGER, `agreedClass` INTEGER, `lastModified` REAL DEFAULT 0, `description` TEXT);
CREATE TABLE `Annotations_coordinates` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `coordinateX` INTEGER,
    `coordinateY` INTEGER, `coordinateZ` INTEGER DEFAULT 0, `slide` INTEGER, `annoId` INTEGER, `orderIdx` INTEGER);
CREATE TABLE `Persons` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `name` TEXT, `isExactUser` INTEGER DEFAULT 0);
CREATE TABLE `Classes` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `name` TEXT, `color` TEXT);
CREATE TABLE `Annotations_label` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `exact_id` INTEGER,
    `person` INTEGER DEFAULT 0, `class` INTEGER, `annoId` INTEGER);
"""
# Source: create_header of sql_to_coco.py, github.com/DeepMicroscopy/CanineCutaneousTumors
CLASS_NAMES = (
    *("Bone", "Cartilage", "Dermis", "Epidermis", "Subcutis", "Inflamm/Necrosis", "Melanoma", "Plasmacytoma"),
    *("Mast Cell Tumor", "PNST", "SCC", "Trichoblastoma", "Histiocytoma"),
)
CLASS_IDS = {name: number for number, name in enumerate(CLASS_NAMES, start=1)}


def rectangle(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def disc(x, y, radius, corners=360):
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return [(round(x + radius * np.cos(a)), round(y + radius * np.sin(a))) for a in angles]


# in the order they are painted: each lies on top of those before
SHAPES = [
    ("SCC", disc(500, 480, 380)),
    ("Dermis", rectangle(380, 400, 660, 600)),
    ("SCC", rectangle(470, 460, 530, 540)),
    ("Epidermis", rectangle(900, 100, 1000, 900)),
]
BARE_TISSUE = rectangle(1120, 300, 1440, 700)  # painted like dermis, not outlined
SPECK = rectangle(1472, 32, 1504, 64)


def paint() -> np.ndarray:
    """The picture, by an independent rule: matplotlib says which pixel centres a ring holds."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    picture = np.full((HEIGHT, WIDTH, 3), COLOURS["glass"], np.uint8)
    for name, ring in [*SHAPES, ("Dermis", BARE_TISSUE), ("Dermis", SPECK)]:
        picture[Outline(ring).contains_points(centres).reshape(HEIGHT, WIDTH)] = COLOURS[name]
    return picture


def write_slide(path, picture, microns=MICRONS, factors=(1, 4), broken=False):
    """A tiled pyramid: Aperio's layout for .svs, pages of falling size otherwise."""
    levels = []
    for factor in factors:
        rows, columns = picture.shape[0] // factor, picture.shape[1] // factor
        blocks = picture[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3)
        levels.append(np.round(blocks.mean((1, 3))).astype(np.uint8))
    tiles = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        if path.suffix == ".svs":
            words = (
                f"Aperio Image Library v12.0.15\r\n{picture.shape[1]}x{picture.shape[0]}|AppMag = 40|MPP = {microns}"
            )
            file.write(levels[0], **tiles, description=words)
            file.write(levels[-1], photometric="rgb", metadata=None, description=words)  # the thumbnail
            for level in levels[1:]:
                file.write(level, **tiles, description=words)
        else:
            for factor, level in zip(factors, levels, strict=True):
                said = {"resolution": (1e4 / microns / factor,) * 2, "resolutionunit": "CENTIMETER"} if microns else {}
                file.write(level, **tiles, **said, subfiletype=int(factor > 1))
    if broken:
        content = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as file:
            spans = [span for page in file.pages for span in zip(page.dataoffsets, page.databytecounts, strict=True)]
        for offset, count in spans:
            content[offset : offset + count] = bytes(count)
        path.write_bytes(content)
    return path


def write_sqlite(path, slides):
    """``slides``: name → [(class, ring)]; among them what a reader has to leave out."""
    with sqlite3.connect(path) as database:
        database.executescript(SLIDERUNNER)
        database.execute("INSERT INTO Persons (name) VALUES ('someone')")
        database.executemany("INSERT INTO Classes (uid, name) VALUES (?, ?)", [(i, n) for n, i in CLASS_IDS.items()])

        def insert(slide, name, ring, kind=3, deleted=0, labelled=True):
            uid = database.execute(
                "INSERT INTO Annotations (slide, type, agreedClass, deleted) VALUES (?, ?, ?, ?)",
                (slide, kind, CLASS_IDS[name], deleted),
            ).lastrowid
            corners = [(x, y, slide, uid, order) for order, (x, y) in enumerate(ring, start=1)]
            database.executemany(
                "INSERT INTO Annotations_coordinates (coordinateX, coordinateY, slide, annoId, orderIdx) "
                "VALUES (?, ?, ?, ?, ?)",
                corners[::-1],  # the order of the rows says nothing
            )
            if labelled:
                database.execute(
                    "INSERT INTO Annotations_label (person, class, annoId) VALUES (1, ?, ?)", (CLASS_IDS[name], uid)
                )
                database.execute("INSERT INTO Annotations_label (person, class, annoId) VALUES (1, 1, ?)", (uid,))

        for number, (slide, shapes) in enumerate(slides.items(), start=1):
            database.execute("INSERT INTO Slides (uid, filename) VALUES (?, ?)", (number, slide))
            insert(number, "SCC", rectangle(0, 0, 50, 50), deleted=1)
            insert(number, "SCC", [(10, 10)], kind=1)
            insert(number, "SCC", rectangle(60, 0, 90, 50), labelled=False)
            insert(number, "SCC", [(5, 5), (9, 5), (5, 5)])
            for name, ring in shapes:
                insert(number, name, [*ring, ring[0], ring[0]])
    database.close()
    return path


def write_json(path, slides):
    images = [
        {"license": 1, "file_name": name, "id": row, "width": 1, "height": 1} for row, name in enumerate(slides, 1)
    ]
    annotations = [
        {
            "segmentation": np.ravel([*ring, ring[0]]).astype(float).tolist(),
            "iscrowd": 0,
            "image_id": image["id"],
            "category_id": CLASS_IDS[name],
        }
        for image in images
        for name, ring in slides[image["file_name"]]
    ]
    categories = [{"id": i, "name": name, "supercategory": "Tissue"} for name, i in CLASS_IDS.items()]
    content = {"info": {}, "licenses": [], "images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content))
    return path


POLYGONS = [as_polygon(name, ring) for name, ring in SHAPES]


def corners_of(polygon):
    """The corners of a polygon without holes, each once."""
    return list(dict.fromkeys(polygon.shape.exterior.coords))


def described(polygons):
    return [(polygon.class_name, corners_of(polygon)) for polygon in polygons]


def fault(call, *arguments, error=PatchTableError, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="session")
def picture():
    return paint()


@pytest.fixture(scope="session", params=["SCC_01_1.svs", "SCC_01_1.tif"])
def slide_path(request, picture, tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slides") / request.param, picture)


@pytest.fixture
def slide(slide_path):
    with Slide(slide_path) as slide:
        yield slide


# ------------------------------------------------------------------------------------------ annotations


def test_both_formats_give_equal_polygons_in_equal_order(tmp_path):
    slides = {"SCC_01_1.svs": SHAPES, "SCC_02_1.svs": SHAPES[:1], "SCC_03_1.svs": []}
    mixed = {name: [shapes[k] for k in (2, 3, 1, 0) if k < len(shapes)] for name, shapes in slides.items()}
    from_sqlite = read_polygons(write_sqlite(tmp_path / "CATCH.sqlite", mixed))
    # the authors' JSON has the polygons by depth, those of equal depth in the order of the data base
    by_depth = {**slides, "SCC_01_1.svs": [SHAPES[k] for k in (3, 0, 1, 2)]}
    from_json = read_polygons(write_json(tmp_path / "CATCH.json", by_depth))
    assert list(from_sqlite) == list(from_json) == list(slides)
    for name in slides:
        assert described(from_sqlite[name]) == described(from_json[name])
    assert [len(polygons) for polygons in from_json.values()] == [4, 1, 0]
    assert corners_of(from_json["SCC_01_1.svs"][1]) == SHAPES[0][1]


def test_a_json_in_another_order_is_painted_in_that_order(tmp_path):
    read = read_polygons(write_json(tmp_path / "a.json", {"SCC_01_1.svs": SHAPES[::-1]}))["SCC_01_1.svs"]
    assert described(read) == described(POLYGONS[::-1])


def test_the_parts_of_one_object_of_coco_are_polygons_of_one_class(tmp_path):
    path = write_json(tmp_path / "a.json", {"SCC_01_1.svs": SHAPES[:1]})
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[0, 0, 4, 0, 4, 4], [9, 9, 12, 9, 12, 12, 9, 12]]
    path.write_text(json.dumps(content))
    assert [len(corners_of(part)) for part in read_polygons(path)["SCC_01_1.svs"]] == [3, 4]


@pytest.mark.parametrize("shift", [(0, 0), (-10, 0), (50, 0), (0, 50), (50, 50)])  # free, and touching each side
def test_enclosed_polygons_come_after_and_crossing_ones_keep_their_order(tmp_path, shift):
    inner = ("SCC", np.array(rectangle(10, 10, 50, 50)) + shift)
    outer = ("Dermis", rectangle(0, 0, 100, 100))
    crossing = ("Epidermis", rectangle(80, 40, 120, 60))  # its corners on the left are inside
    through = ("Bone", [(-5, 30), (50, 20), (105, 30), (50, 40)])  # runs through both
    shapes = [(name, [tuple(map(int, corner)) for corner in ring]) for name, ring in (inner, crossing, through, outer)]
    read = read_polygons(write_sqlite(tmp_path / "a.sqlite", {"a.svs": shapes}))["a.svs"]
    assert [one.class_name for one in read] == ["Epidermis", "Bone", "Dermis", "SCC"]


def test_a_polygon_across_a_cleft_of_another_is_not_enclosed(tmp_path):
    """All its corners, and the middles of its edges, are inside."""
    cleft = ("Dermis", [(0, 0), (28, 0), (30, 50), (32, 0), (100, 0), (100, 100), (0, 100)])
    shapes = [("SCC", rectangle(10, 10, 90, 40)), cleft]
    read = read_polygons(write_sqlite(tmp_path / "a.sqlite", {"a.svs": shapes}))["a.svs"]
    assert [one.class_name for one in read] == ["SCC", "Dermis"]


def random_ring(generator, n_corners):
    """May cross itself, and lies partly outside of the grid of 40×50."""
    return generator.uniform(-15, 65, (n_corners, 2))


@pytest.mark.parametrize("downsample", [1.0, 2.0, 3.3])
def test_rasterised_polygons_agree_with_matplotlib_at_every_pixel_centre(downsample):
    generator = np.random.default_rng(0)
    names = ["Dermis", "SCC", "Epidermis"]
    for n_corners in (3, 4, 7, 40):
        rings = [downsample * random_ring(generator, n_corners) for _ in range(5)]
        polygons = [as_polygon(names[k % 3], ring) for k, ring in enumerate(rings)]
        left, top = generator.uniform(-5, 5, 2)
        mask = rasterise(polygons, TISSUE_SET, left, top, downsample, (40, 50), background=9)
        rows, columns = np.mgrid[:40, :50]
        centres = np.stack([left + (columns + 0.5) * downsample, top + (rows + 0.5) * downsample], -1).reshape(-1, 2)
        expected = np.full(40 * 50, 9)
        seen = np.full(40 * 50, -1)
        for row, ring in enumerate(rings):
            inside = Outline(ring).contains_points(centres)
            expected[inside] = TISSUE_SET[names[row % 3]]
            seen[inside] = row
        assert (mask == expected.reshape(40, 50)).all()
        assert (topmost(polygons, centres) == seen).all()
        assert len(np.unique(mask)) > 2


def test_the_area_of_a_polygon_is_that_of_its_pixels_and_of_the_circle():
    circle = as_polygon("SCC", disc(500, 480, 380))
    n_pixels = (rasterise([circle], {"SCC": 1}, 0, 0, 1, (HEIGHT, WIDTH)) == 1).sum()
    assert n_pixels == pytest.approx(circle.shape.area, rel=2e-3)
    assert circle.shape.area == pytest.approx(np.pi * 380**2, rel=2e-3)
    assert as_polygon("SCC", rectangle(2, 3, 7, 13)).shape.area == 50


def test_pixels_on_shared_borders_belong_to_exactly_one_polygon():
    left, right = rectangle(0, 0, 5, 10), rectangle(5, 0, 10, 10)
    counts = sum(rasterise([as_polygon("SCC", ring)], {"SCC": 1}, 0.5, 0.5, 1, (9, 9)) for ring in (left, right))
    assert (counts == 1).all()  # the centres of column 4 lie on x = 5


def test_holes_stay_open_by_another_class_on_top_and_by_a_ring_that_runs_into_itself():
    key_hole = [*rectangle(0, 0, 30, 30), (0, 0), *rectangle(10, 10, 20, 20), (10, 10)]
    stacked = [as_polygon("SCC", rectangle(0, 0, 30, 30)), as_polygon("Dermis", rectangle(10, 10, 20, 20))]
    expected = np.ones((30, 30))
    expected[10:20, 10:20] = 0
    assert (rasterise([as_polygon("SCC", key_hole)], BINARY, 0, 0, 1, (30, 30)) == expected).all()
    assert (rasterise(stacked, BINARY, 0, 0, 1, (30, 30)) == expected).all()
    assert (rasterise(stacked[::-1], BINARY, 0, 0, 1, (30, 30)) == 1).all()


def test_faults_of_annotation_files_are_named(tmp_path):
    assert "nowhere.json: no such file" in fault(read_polygons, tmp_path / "nowhere.json")
    (tmp_path / "a.json").write_text("{")
    assert "a.json: neither SQLite, nor XML, nor readable JSON" in fault(read_polygons, tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"images": []}')
    assert "'categories'" in fault(read_polygons, tmp_path / "a.json")
    path = write_json(tmp_path / "b.json", {"a.svs": SHAPES[:1]})
    path.write_text(path.read_text().replace('"category_id": 11', '"category_id": 99'))
    assert "b.json" in fault(read_polygons, path)
    (tmp_path / "a.sqlite").write_bytes(b"SQLite format 3\0" + bytes(200))
    assert "a.sqlite: not a readable SlideRunner data base" in fault(read_polygons, tmp_path / "a.sqlite")
    sqlite3.connect(tmp_path / "b.sqlite").execute("CREATE TABLE Slides (uid INTEGER)").connection.close()
    assert "b.sqlite" in fault(read_polygons, tmp_path / "b.sqlite")
    assert "'SCC' has no index" in fault(rasterise, POLYGONS, {"Dermis": 1}, 0, 0, 1, (8, 8), error=ValueError)


# ------------------------------------------------------------------------------------------ reading


@pytest.mark.slow
def test_the_slide_says_its_size_and_resolution(slide):
    assert slide.size == (WIDTH, HEIGHT)
    assert slide.microns_per_pixel == pytest.approx(MICRONS)
    assert slide.size_microns == pytest.approx((WIDTH * MICRONS, HEIGHT * MICRONS))


@pytest.mark.slow
def test_the_finest_level_is_read_unchanged(slide, picture):
    assert (slide.read(202, 86, (40, 70), MICRONS) == picture[43:83, 101:171]).all()
    assert (slide.read(0, 0, (HEIGHT, WIDTH), MICRONS) == picture).all()


@pytest.mark.parametrize(("microns", "level"), [(2, 0), (4, 0), (6.6, 0), (7.7, 1), (8, 1), (12, 1)])
def test_the_coarsest_level_that_is_fine_enough_is_read(slide, microns, level, monkeypatch):
    levels = []
    read = slide._pyramid.read
    monkeypatch.setattr(slide._pyramid, "read", lambda level, window: levels.append(level) or read(level, window))
    assert slide.read(300, 300, (32, 32), microns).shape == (32, 32, 3)
    assert levels == [level]


@pytest.mark.parametrize("microns", [2.0, 4.0, 6.6, 8.0, 13.0])
@pytest.mark.parametrize("corner", [(0, 0), (333, 517), (1501.3, 799.7)])
def test_a_coarser_patch_is_the_whole_picture_reduced_there(slide, picture, microns, corner):
    scale = microns / MICRONS
    box = (corner[0] / 2, corner[1] / 2, corner[0] / 2 + 48 * scale, corner[1] / 2 + 40 * scale)
    expected = np.asarray(Image.fromarray(picture).resize((48, 40), Image.Resampling.LANCZOS, box)).astype(int)
    found = slide.read(*corner, (40, 48), microns)
    # from the level of the pyramid, pixels are first averaged over 4×4: only edges may differ
    limit = 0 if microns < 8 else 40
    assert np.abs(found - expected).max() <= limit
    assert np.abs(found - expected).mean() <= limit / 20


def test_reading_outside_or_too_fine_is_an_error(slide):
    assert "leaves the slide" in fault(slide.read, -4, 0, (8, 8), MICRONS, error=ValueError)
    assert "leaves the slide" in fault(slide.read, 0, 2 * HEIGHT - 10, (8, 8), MICRONS, error=ValueError)
    assert "at its finest" in fault(slide.read, 0, 0, (8, 8), 1.0, error=ValueError)


def test_a_slide_without_resolution_needs_one(tmp_path, picture):
    path = write_slide(tmp_path / "a.tif", picture[:256, :256], microns=0)
    assert fault(Slide, path).startswith(f"{path}: the file states no resolution; give microns_per_pixel")
    with Slide(path, microns_per_pixel=0.5) as slide:
        assert slide.size_microns == (128, 128)
    path = write_slide(tmp_path / "b.tif", picture[:256, :256], microns=25400 / 72)  # 72 dots an inch
    assert "states a resolution of 352.778 µm/px" in fault(Slide, path)


def test_faults_of_slides_name_the_file(tmp_path, picture):
    assert fault(Slide, tmp_path / "a.svs") == f"{tmp_path / 'a.svs'}: no such file"
    (tmp_path / "a.svs").write_bytes(b"II*\0" + bytes(100))
    assert fault(Slide, tmp_path / "a.svs").startswith(f"{tmp_path / 'a.svs'}: not a readable slide (")
    path = write_slide(tmp_path / "b.svs", picture[:256, :256], broken=True)
    with Slide(path) as slide:
        assert fault(slide.read, 0, 0, (64, 64), MICRONS).startswith(f"{path}: broken at level 0")
    tifffile.imwrite(
        tmp_path / "c.tif", picture[:256, :256, 0], tile=(128, 128), resolution=(5000, 5000), resolutionunit=3
    )
    with Slide(tmp_path / "c.tif") as slide:
        assert "1 channels of uint8; expected RGB" in fault(slide.read, 0, 0, (64, 64), MICRONS)
    with tifffile.TiffWriter(tmp_path / "d.tif") as file:
        file.write(picture[:256, :256], tile=(128, 128), resolution=(5000, 4000), resolutionunit="CENTIMETER")
    assert "pixels of 2×2.5 µm; expected square ones" in fault(Slide, tmp_path / "d.tif")


# ------------------------------------------------------------------------------------------ tissue


def test_otsus_threshold_is_that_of_a_search_through_all_thresholds():
    generator = np.random.default_rng(0)
    for _ in range(50):
        parts = [generator.normal(*generator.uniform(20, 200, 2), n_values) for n_values in (300, 100)]
        values = np.concatenate(parts)
        values = np.clip(values, 0, 255).astype(int)
        spreads = []
        for threshold in range(256):
            low, high = values[values <= threshold], values[values > threshold]
            if len(low) and len(high):
                spreads.append(len(low) * len(high) * (low.mean() - high.mean()) ** 2)
            else:
                spreads.append(0)
        found = otsu_threshold(np.bincount(values, minlength=256))
        assert spreads[found] == pytest.approx(max(spreads))


def test_tissue_is_found_where_the_picture_has_it_and_specks_are_dropped(slide, picture):
    tissue = find_tissue(slide, cell_microns=32.0)
    coloured = (picture != COLOURS["glass"]).any(2)
    share = coloured.reshape(HEIGHT // 16, 16, WIDTH // 16, 16).mean((1, 3))
    assert tissue.cells.shape == share.shape
    left, top, right, bottom = (k // 16 for k in (*SPECK[0], *SPECK[2]))
    assert (share[top:bottom, left:right] == 1).all()  # the speck fills cells
    assert find_tissue(slide, 32.0, min_area_mm2=0.0).cells[top:bottom, left:right].all()
    share[top:bottom, left:right] = 0
    assert tissue.cells[share == 1].all()
    assert not tissue.cells[share == 0].any()


def test_an_empty_slide_has_no_tissue_and_gives_no_patch(tmp_path):
    noise = np.random.default_rng(0).integers(238, 244, (512, 512, 3)).astype(np.uint8)
    with Slide(write_slide(tmp_path / "SCC_09_1.svs", noise)) as slide:
        tissue = find_tissue(slide)
        assert not tissue.cells.any()
        assert "SCC_09_1.svs: no tissue found" in fault(sample_positions, slide, 1, 32, 4.0, 0, tissue=tissue)


# ------------------------------------------------------------------------------------------ sampling


def by_colour(image, names=tuple(COLOURS)):
    distance = np.stack([np.abs(image.astype(int) - COLOURS[name]).sum(-1) for name in names])
    return np.array(names)[distance.argmin(0)]


def disagreement(patch, name, mask_value):
    """Pixels whose colour says ``name`` and whose mask does not, or the other way round, off the borders."""
    painted = by_colour(np.asarray(patch["image"])) == name
    border = ndimage.binary_dilation(painted, np.ones((3, 3))) & ndimage.binary_dilation(~painted, np.ones((3, 3)))
    return ((painted != (np.asarray(patch["mask"]) == mask_value)) & ~border).sum()


@pytest.mark.slow
@pytest.mark.parametrize("microns", [2.0, 4.0, 6.6, 9.0])
def test_masks_agree_with_the_colours_of_the_picture(slide, microns):
    patches = list(sample_patches(slide, 30, 64, microns, 0, POLYGONS, BINARY))
    assert sum(disagreement(patch, "SCC", 1) for patch in patches) == 0
    shares = [(np.asarray(patch["mask"]) == 1).mean() for patch in patches]
    assert sum(0 < share < 1 for share in shares) > 1  # borders were in the picture
    patches = list(sample_patches(slide, 24, 64, microns, 0, POLYGONS, TISSUE_SET))
    assert sum(disagreement(patch, "Epidermis", TISSUE_SET["Epidermis"]) for patch in patches) == 0


def test_a_mask_shifted_by_three_pixels_is_noticed(slide):
    patches = list(sample_patches(slide, 24, 64, 4.0, 0, POLYGONS, BINARY))
    moved = [{**patch, "mask": np.roll(np.asarray(patch["mask"]), 3, axis=1)} for patch in patches]
    assert sum(disagreement(patch, "SCC", 1) for patch in moved) > 100


@pytest.mark.slow
def test_classes_are_drawn_evenly_and_each_place_shows_its_class(slide, picture):
    # a side of 15 px: 7.5 to each side, so the centre is known to a pixel
    positions = sample_positions(slide, 900, 15, MICRONS, 0, POLYGONS, TISSUE_SET)
    drawn = Counter(position.class_index for position in positions)
    assert set(drawn) == {TISSUE_SET[name] for name in ("SCC", "Dermis", "Epidermis")}
    for count in drawn.values():
        assert abs(count - 300) < 4 * np.sqrt(900 * 1 / 3 * 2 / 3)
    names = {value: name for name, value in TISSUE_SET.items() if name in COLOURS}
    wrong = 0
    for x, y, value in positions:
        row, column = int(y / MICRONS + 7), int(x / MICRONS + 7)
        around = by_colour(picture[row - 1 : row + 2, column - 1 : column + 2])
        wrong += names[value] not in around
    assert wrong == 0


@pytest.mark.slow
def test_places_of_a_class_are_equally_likely_and_never_under_another(slide):
    """The nodule has 60×80 px of the tumour's visible π·380² − 280·200 + 60·80."""
    positions = sample_positions(
        slide, 3000, 15, MICRONS, 1, POLYGONS, {**BINARY, "Dermis": UNKNOWN, "Epidermis": UNKNOWN}
    )
    assert {position.class_index for position in positions} == {1}
    centres = np.array([(p.x_microns / MICRONS + 7.5, p.y_microns / MICRONS + 7.5) for p in positions])
    in_dermis, in_nodule = (Outline(SHAPES[row][1]).contains_points(centres) for row in (1, 2))
    near_border = np.abs(in_dermis.sum() - in_nodule.sum())
    assert near_border < 10  # only places rounded across the border
    share = 4800 / (np.pi * 380**2 - 280 * 200 + 4800)
    assert abs(in_nodule.sum() - 3000 * share) < 4 * np.sqrt(3000 * share)
    left = (centres[:, 0] < 500).mean()
    assert abs(left - 0.5) < 4 * 0.5 / np.sqrt(3000) + 0.02


def test_a_hidden_class_is_not_drawn_and_no_class_at_all_is_an_error(slide):
    covered = [as_polygon("Bone", rectangle(400, 420, 500, 500)), *POLYGONS]
    values = {p.class_index for p in sample_positions(slide, 12, 15, MICRONS, 0, covered, TISSUE_SET)}
    assert values == {TISSUE_SET[name] for name in ("SCC", "Dermis", "Epidermis")}
    message = fault(sample_positions, slide, 1, 15, MICRONS, 0, covered, dict.fromkeys(TISSUE_SET, UNKNOWN))
    assert message == f"{slide.path}: none of its 5 polygons shows a class to sample"


def test_positions_depend_on_name_seed_and_index_alone(slide, slide_path, picture, tmp_path):
    arguments = (32, 4.0, 5, POLYGONS, BINARY)
    positions = sample_positions(slide, 20, *arguments)
    assert sample_positions(slide, 7, *arguments) == positions[:7]
    assert len(set(positions)) == 20
    assert sample_positions(slide, 20, 32, 4.0, 6, POLYGONS, BINARY)[0] != positions[0]
    with Slide(slide_path) as again:
        assert sample_positions(again, 20, *arguments) == positions
    other = write_slide(tmp_path / f"SCC_02_1{slide_path.suffix}", picture)
    with Slide(other) as other:
        assert not set(sample_positions(other, 20, *arguments)) & set(positions)


@pytest.mark.parametrize(("patch_size", "microns"), [(32, 2.0), (200, 10.0), (155, 13.2)])
def test_patches_never_leave_the_slide(slide, patch_size, microns):
    edge = [as_polygon("SCC", rectangle(-200, -200, 60, 1500)), as_polygon("Dermis", rectangle(1500, 900, 1800, 1300))]
    tissue = Tissue(np.ones((HEIGHT // 16, WIDTH // 16), bool), 32.0)
    side = patch_size * microns
    for options in ({"polygons": edge, "class_index": BINARY}, {"tissue": tissue}):
        for x, y, _ in sample_positions(slide, 60, patch_size, microns, 0, **options):
            assert 0 <= x <= slide.size_microns[0] - side
            assert 0 <= y <= slide.size_microns[1] - side
            assert (x / MICRONS).is_integer()
    assert next(sample_patches(slide, 1, patch_size, microns, 0, edge, BINARY))["image"].size == (patch_size,) * 2
    message = fault(sample_positions, slide, 1, 300, 13.2, 0, edge, BINARY)
    assert message == f"{slide.path}: 3072×2048 µm, smaller than a patch of 3960 µm"


def test_a_polygon_that_leaves_the_slide_is_seen_in_all_its_patches(slide):
    """Most of it is above the slide; a patch pushed inside from there would not show it."""
    wedge = [as_polygon("SCC", [(0, -400), (1400, -400), (700, 60)])]
    patches = list(sample_patches(slide, 30, 16, MICRONS, 0, wedge, BINARY))
    assert all((np.asarray(patch["mask"]) == 1).any() for patch in patches)
    assert len({patch["y_microns"] for patch in patches}) > 5


def test_a_polygon_far_outside_takes_no_places_from_those_on_the_slide(slide):
    """It has 10¹⁰ times the area of the nodule; its box alone reaches the slide."""
    far = 4_000_000
    corner = [(-far, -far), (far, -far), (far, -9), (-9, -9), (-9, far), (-far, far)]
    outlined = [as_polygon("SCC", corner), as_polygon("SCC", rectangle(470, 460, 530, 540)), POLYGONS[3]]
    positions = sample_positions(slide, 60, 15, MICRONS, 0, outlined, TISSUE_SET)
    assert {position.class_index for position in positions} == {TISSUE_SET[name] for name in ("SCC", "Epidermis")}
    centres = np.array(
        [(x / MICRONS + 7.5, y / MICRONS + 7.5) for x, y, value in positions if value == TISSUE_SET["SCC"]]
    )
    assert (np.abs(centres - (500, 500)) < (31, 41)).all()
    message = fault(sample_positions, slide, 1, 15, MICRONS, 0, outlined[:1], TISSUE_SET)
    assert message == f"{slide.path}: none of its 1 polygons shows a class to sample"
    message = fault(
        sample_positions, slide, 1, 15, MICRONS, 0, [as_polygon("SCC", SPECK + np.array([2000, 0]))], TISSUE_SET
    )
    assert message == f"{slide.path}: none of its 1 polygons shows a class to sample"


def test_an_unannotated_slide_is_sampled_on_its_tissue_without_masks(slide):
    tissue = find_tissue(slide)
    positions = sample_positions(slide, 200, 15, MICRONS, 0, tissue=tissue)
    centres = np.array([(x + 15, y + 15) for x, y, _ in positions])  # µm
    on_tissue = tissue.at(centres[:, 0], centres[:, 1])
    assert on_tissue.mean() > 0.97  # corners are rounded to whole pixels, so a few centres cross a cell's border
    bare = Outline(BARE_TISSUE).contains_points(centres / MICRONS).mean()
    share = 320 * 400 / (tissue.cells.sum() * 256)
    assert abs(bare - share) < 4 * np.sqrt(share / 200)
    patches = list(sample_patches(slide, 3, 15, MICRONS, 0))
    assert [patch["mask"] for patch in patches] == [None] * 3
    assert [(p["x_microns"], p["y_microns"]) for p in patches] == [position[:2] for position in positions[:3]]


def test_a_patch_is_found_again_from_its_columns_and_its_neighbour_beside_it(slide_path, slide, picture):
    side = 64
    for patch in sample_patches(slide, 6, side, MICRONS, 3, POLYGONS, BINARY):
        assert patch["slide"] == slide_path.name
        assert patch["microns_per_pixel"] == MICRONS
        column, row = (round(patch[key] / MICRONS) for key in ("x_microns", "y_microns"))
        with TiffSlide(slide_path) as by_hand:
            again = np.asarray(by_hand.read_region((column, row), 0, (side, side)))
        assert (np.asarray(patch["image"]) == again).all()
        assert (again == picture[row : row + side, column : column + side]).all()
        neighbour_x = patch["x_microns"] + side * MICRONS
        if neighbour_x + side * MICRONS <= slide.size_microns[0]:
            both = slide.read(patch["x_microns"], patch["y_microns"], (side, 2 * side), MICRONS)
            beside = slide.read(neighbour_x, patch["y_microns"], (side, side), MICRONS)
            assert (np.concatenate([again, beside], 1) == both).all()


def test_ground_that_nobody_outlined_is_background_or_unknown_as_asked(slide):
    around = [as_polygon("SCC", rectangle(1200, 400, 1300, 500)), POLYGONS[3]]  # in the bare tissue, and on the glass
    options = (8, 64, 4.0, 0, around, TISSUE_SET)
    n_unknown = n_glass = 0
    for plain, strict in zip(
        sample_patches(slide, *options), sample_patches(slide, *options, unannotated_is_background=False), strict=True
    ):
        plain_mask, mask = np.asarray(plain["mask"]), np.asarray(strict["mask"])
        assert plain["x_microns"] == strict["x_microns"]
        corner = (plain["x_microns"] / MICRONS, plain["y_microns"] / MICRONS)
        outlined = rasterise(around, dict.fromkeys(TISSUE_SET, 1), *corner, 2.0, (64, 64)) == 1
        assert (mask[outlined] == plain_mask[outlined]).all()
        assert set(np.unique(mask[~outlined])) <= {0, UNKNOWN}
        assert (plain_mask[~outlined] == 0).all()
        colours = by_colour(np.asarray(plain["image"]))
        glass = ndimage.binary_erosion(colours == "glass", iterations=9)  # a cell of tissue is 8 px
        tissue = ndimage.binary_erosion(colours == "Dermis", iterations=9) & ~outlined
        assert (mask[glass & ~outlined] == 0).all()
        assert (mask[tissue] == UNKNOWN).all()
        n_unknown, n_glass = n_unknown + tissue.sum(), n_glass + glass.sum()
    assert min(n_unknown, n_glass) > 100


# ------------------------------------------------------------------------------------------ CATCH

SMALL = Sampling(n_patches_per_slide=3, patch_size=16, microns_per_pixel=8.0, annotated_per_type=1)
PATIENTS = {"SCC": 5, "MCT": 4}


@pytest.fixture(scope="session")
def catch_folder(tmp_path_factory):
    """Ten slides of nine patients of two types, 128×128 px of 4 µm: a dark tumour on pink dermis."""
    folder = tmp_path_factory.mktemp("catch")
    shapes = {}
    for kind, n_patients in PATIENTS.items():
        for patient in range(1, n_patients + 1):
            for number in (1, 2) if (kind, patient) == ("SCC", 2) else (1,):
                name = f"{kind}_{patient:02}_{number}.svs"
                dermis, tumour = rectangle(10, 10, 118, 118), rectangle(30, 24 + 4 * patient, 90, 100)
                picture = np.full((128, 128, 3), COLOURS["glass"], np.uint8)
                picture[10:118, 10:118] = COLOURS["Dermis"]
                picture[24 + 4 * patient : 100, 30:90] = COLOURS["SCC"]
                (folder / "slides" / kind).mkdir(parents=True, exist_ok=True)
                write_slide(folder / "slides" / kind / name, picture, microns=4.0, factors=(1, 2))
                shapes[name] = [("Dermis", dermis), (TUMOURS[kind], tumour)]
    write_json(folder / "CATCH.json", shapes)
    write_sqlite(folder / "CATCH.sqlite", shapes)
    return folder


def copy_of(catch_folder, tmp_path):
    """The folder with links to its slides, to take some away."""
    for path in (catch_folder / "slides").rglob("*.svs"):
        (tmp_path / "slides").mkdir(exist_ok=True)
        (tmp_path / "slides" / path.name).symlink_to(path)
    return tmp_path / "slides"


@pytest.fixture(scope="session")
def tables(catch_folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return make_catch(catch_folder / "slides", catch_folder / "CATCH.json", cache, SMALL).tables


@pytest.mark.slow
def test_the_tables_are_split_by_patient_with_every_type_in_every_split(tables):
    check_splits(tables)
    assert {split: len(set(table["slide"])) for split, table in tables.items()} in (
        {"train": 6, "validation": 2, "test": 2},
        {"train": 5, "validation": 3, "test": 2},
        {"train": 5, "validation": 2, "test": 3},
    )
    for split, table in tables.items():
        check_patches(table, n_classes=2, name=split)
        assert set(table["tumour_type"]) == {"SCC", "MCT"}
        assert Counter(table["slide"]) == dict.fromkeys(table["slide"], 3)
        for row in table.select_columns(["group", "slide", "tumour_type"]):
            assert row["slide"].startswith(f"{row['group']}_")
            assert row["group"].startswith(f"{row['tumour_type']}_")


def test_only_the_chosen_training_slides_have_masks(tables):
    masked = {(row["tumour_type"], row["slide"]) for row in tables["train"] if row["mask"] is not None}
    assert sorted(kind for kind, _ in masked) == ["MCT", "SCC"]
    for split in ("validation", "test"):
        assert all(mask is not None for mask in tables[split]["mask"])
    rows = [row for table in tables.values() for row in table if row["mask"] is not None]
    assert sum(disagreement(row, "SCC", 1) for row in rows) == 0
    assert 0.2 < np.mean([(np.asarray(row["mask"]) == 1).mean() for row in rows]) < 0.8


@pytest.mark.slow
def test_all_training_slides_are_annotated_when_asked(catch_folder, tmp_path):
    sampling = Sampling(1, 16, 8.0, classes="type", annotated_per_type=None)
    tables = make_catch(catch_folder / "slides", catch_folder / "CATCH.sqlite", tmp_path, sampling).tables
    rows = [row for table in tables.values() for row in table]
    assert len(rows) == 10
    names, _ = CLASS_SETS["type"]
    for row in rows:
        drawn = {names[value] for value in np.unique(np.asarray(row["mask"]))}
        assert drawn <= {"other", TUMOURS[row["tumour_type"]]}
        assert disagreement(row, "SCC", names.index(TUMOURS[row["tumour_type"]])) == 0


@pytest.mark.slow
def test_prepare_writes_the_same_tables_and_a_data_card_again_and_again(catch_folder, tables, tmp_path):
    folders = (tmp_path / "a", tmp_path / "b")
    for folder, annotations in zip(folders, ("CATCH.json", "CATCH.sqlite"), strict=True):
        paths = make_catch(catch_folder / "slides", catch_folder / annotations, tmp_path / "cache", SMALL).save(folder)
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md", "test.parquet", "train.parquet", "validation.parquet",
        ]  # fmt: skip
    for split, path in paths.items():
        assert path.read_bytes() == (folders[0] / path.name).read_bytes()
        stored, made = (
            Patches.from_table(table, CLASS_SETS["tumour"][0]) for table in (load_patches(path), tables[split])
        )
        assert stored.images.equal(made.images)
        assert stored.masks.equal(made.masks)
        assert stored.groups == made.groups
    card = (folders[0] / "README.md").read_text()
    assert "10.1038/s41597-022-01692-w" in card
    assert "10.7937/TCIA.2M93-FX66" in card
    assert "CC BY 4.0" in card
    assert "annotated_per_type=1" in card
    assert "outside of their slide: none." in card
    slides = {split: len(set(table["slide"])) for split, table in tables.items()}
    patients = {split: len(set(table["group"])) for split, table in tables.items()}
    assert f"| train.parquet | {3 * slides['train']} | {patients['train']} | sha256:" in card
    assert "- train, with masks: 6 patches of 2 slides: " in card
    assert f"- train, without masks: {3 * (slides['train'] - 2)} patches of {slides['train'] - 2} slides: " in card
    assert all(name in card for table in tables.values() for name in table["slide"])


@pytest.mark.slow
def test_the_authors_split_is_followed(catch_folder, tmp_path):
    names = sorted(path.name for path in (catch_folder / "slides").rglob("*.svs"))
    words = {name: "test" if "_01_" in name else "val" if "_02_" in name else "train" for name in names}
    path = tmp_path / "datasets.csv"
    path.write_text("\n".join(["Slide;Dataset;Scanner", *(f"{name};{word};AT2" for name, word in words.items())]))
    tables = make_catch(
        catch_folder / "slides", catch_folder / "CATCH.json", tmp_path / "cache", SMALL, split_file=path
    ).tables
    assert {name for name in names if "_02_" in name} == set(tables["validation"]["slide"])
    assert {name for name in names if "_01_" in name} == set(tables["test"]["slide"])


def test_faults_of_split_files_are_named(tmp_path):
    path = tmp_path / "datasets.csv"
    assert "datasets.csv: no such file" in fault(read_split_file, path)
    path.write_text("Slide,Split\nMCT_01_1.svs,train\n")
    assert "expected the columns Slide and Dataset, found 'Slide,Split'" in fault(read_split_file, path)
    path.write_text("Slide,Dataset\nMCT_01_1.svs,holdout\n")
    assert "line 2: Dataset is 'holdout'" in fault(read_split_file, path)
    path.write_text("Slide,Dataset\nMCT_01_1.svs,train\nMCT_01_2.svs,test\n")
    assert "line 3: patient MCT_01 is in train and in test" in fault(read_split_file, path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [";", ",", "\t", " ; "])
def test_a_split_file_may_come_from_any_spreadsheet_program(tmp_path, encoding, separator):
    lines = [("Slide", "Dataset", "Scanner"), ("MCT_01_1.svs", "train", "AT2 (Köln)"), ("MCT_02_1.svs", "val", "")]
    path = tmp_path / "datasets.csv"
    path.write_bytes("\r\n".join(separator.join(line) for line in lines).encode(encoding))
    assert read_split_file(path) == {"MCT_01_1.svs": "train", "MCT_02_1.svs": "validation"}


def test_slide_names_give_type_and_patient():
    assert parse_slide_name("Trichoblastoma_10_4.svs") == ("Trichoblastoma", "Trichoblastoma_10")
    for name in ("Sarcoma_01_1.svs", "MCT_01.svs", "MCT_01_1", "xMCT_01_1.svs"):
        assert f"slide {name!r}: not a name of CATCH" in fault(parse_slide_name, name)


def catch_like(n_patients=40, twice=10):
    return [
        f"{kind}_{patient:02}_{number}.svs"
        for kind in TUMOURS
        for patient in range(1, n_patients + 1)
        for number in range(1, 3 if patient <= twice else 2)
    ]


def test_splits_are_stratified_whole_patients_and_seeded():
    slides = catch_like()
    assert len(slides) == 350  # as many as CATCH has, of 282 patients
    assert len({parse_slide_name(name).patient for name in slides}) == 280
    first, second, other = (split_slides(slides, slides, Sampling(seed=seed)) for seed in (0, 0, 1))
    assert first == second
    assert first != other
    assert split_slides(slides[::-1], slides, Sampling()) == first
    patients = {(parse_slide_name(name).patient, split) for name, split in first.items()}
    assert len(patients) == 280
    counts = Counter((patient.split("_")[0], split) for patient, split in patients)
    for kind in TUMOURS:
        assert [counts[kind, split] for split in ("train", "validation", "test")] == [28, 4, 8]


def test_patients_without_annotation_go_to_training():
    slides = catch_like(10, twice=0)
    annotated = [name for name in slides if int(name.split("_")[1]) <= 5]
    splits = split_slides(slides, annotated, Sampling())
    assert {splits[name] for name in slides if name not in annotated} == {"train"}
    assert Counter(splits.values()) == {"train": 49, "test": 14, "validation": 7}
    message = fault(split_slides, slides, [n for n in annotated if "_01_" in n or "_02_" in n], Sampling())
    assert message.startswith("Histiocytoma: 2 annotated patients cannot give 2 for test, 1 for validation")


def test_annotated_slides_are_nested_of_other_patients_and_evenly_of_all_types():
    slides = catch_like()
    six, seven, other = (choose_annotated(slides, n, seed) for n, seed in ((6, 0), (7, 0), (6, 1)))
    assert set(six) < set(seven)
    assert choose_annotated(slides[::-1], 6, 0) == six
    assert set(six) != set(other)
    assert Counter(name.split("_")[0] for name in six) == dict.fromkeys(TUMOURS, 6)
    assert len({parse_slide_name(name).patient for name in seven}) == 49
    assert "annotated_per_type=41, but Histiocytoma has 40" in fault(choose_annotated, slides, 41, 0)


def test_missing_slides_are_told_in_one_sentence_before_any_is_read(catch_folder, tmp_path):
    slides = copy_of(catch_folder, tmp_path)
    for name in ("SCC_01_1.svs", "SCC_02_1.svs", "SCC_02_2.svs", "SCC_03_1.svs"):
        (slides / name).unlink()
    (slides / "MCT_01_1.svs").unlink()
    (slides / "MCT_01_1.svs").write_bytes(b"broken")  # would be noticed by reading
    message = fault(make_catch, slides, catch_folder / "CATCH.json", tmp_path / "cache", SMALL)
    assert message.startswith(
        f"{slides}: 4 of 10 slides are missing (SCC_01_1.svs, SCC_02_1.svs, SCC_02_2.svs, …); get them from The Cancer"
    )
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_part_of_the_slides_will_do_when_allowed(catch_folder, tmp_path):
    slides = copy_of(catch_folder, tmp_path)
    (slides / "SCC_02_2.svs").unlink()
    with pytest.warns(UserWarning, match="1 of 10 slides are missing"):
        made = make_catch(slides, catch_folder / "CATCH.json", tmp_path / "cache", SMALL, allow_missing=True)
    assert len({name for table in made.tables.values() for name in table["slide"]}) == 9
    (tmp_path / "empty").mkdir()
    message = fault(
        make_catch, tmp_path / "empty", catch_folder / "CATCH.json", tmp_path / "cache", SMALL, allow_missing=True
    )
    assert "10 of 10 slides are missing" in message


def test_a_broken_slide_is_named_and_nothing_is_written(catch_folder, tmp_path):
    slides = copy_of(catch_folder, tmp_path)
    (slides / "SCC_05_1.svs").unlink()
    (slides / "SCC_05_1.svs").write_bytes(b"II*\0broken")
    message = fault(make_catch, slides, catch_folder / "CATCH.json", tmp_path / "cache", SMALL)
    assert message.startswith(f"{slides / 'SCC_05_1.svs'}: not a readable slide")
    assert not (tmp_path / "cache").exists()


def test_annotations_that_do_not_fit_are_named_before_reading(catch_folder, tmp_path):
    content = json.loads((catch_folder / "CATCH.json").read_text())
    path = tmp_path / "strange.json"
    path.write_text(json.dumps(content).replace('"name": "Dermis"', '"name": "Fur"'))
    assert "class 'Fur' is none of CATCH's" in fault(make_catch, catch_folder / "slides", path, tmp_path, SMALL)
    split_file = tmp_path / "datasets.csv"
    rows = [
        f"{image['file_name']};{'test' if '_01_' in image['file_name'] else 'train'}" for image in content["images"]
    ]
    split_file.write_text("\n".join(["Slide;Dataset", *rows]))
    options = {"sampling": SMALL, "split_file": split_file}
    message = fault(make_catch, catch_folder / "slides", catch_folder / "CATCH.json", tmp_path, **options)
    assert message.endswith("no slide for validation; get more slides or give another split_file")
    split_file.write_text(
        "\n".join(["Slide;Dataset", *rows])
        .replace("02_1.svs;train", "02_1.svs;val")
        .replace("02_2.svs;train", "02_2.svs;val")
    )
    number = next(image["id"] for image in content["images"] if image["file_name"] == "MCT_01_1.svs")
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != number]
    path.write_text(json.dumps(content))
    message = fault(make_catch, catch_folder / "slides", path, tmp_path, **options)
    assert message == f"{path}: no polygons on MCT_01_1.svs, which is in test"
    assert "nowhere: no such folder" in fault(make_catch, tmp_path / "nowhere", path, tmp_path)


def shift_polygons(catch_folder, path, shifts):
    """The JSON with more polygons on slides: its first of each slide once more, moved (x, y) px."""
    content = json.loads((catch_folder / "CATCH.json").read_text())
    numbers = {image["file_name"]: image["id"] for image in content["images"]}
    for name, moves in shifts.items():
        first = next(one for one in content["annotations"] if one["image_id"] == numbers[name])
        for move in moves:
            ring = (np.reshape(first["segmentation"], (-1, 2)) + move).ravel().tolist()
            content["annotations"].append({**first, "segmentation": ring})
    path.write_text(json.dumps(content))
    return content, numbers


@pytest.mark.slow
def test_polygons_outside_of_their_slide_are_counted_and_told_once_a_slide_and_in_the_card(catch_folder, tmp_path):
    """Slides of 128×128 px, the first polygon of each from 10 to 118 px."""
    path = tmp_path / "CATCH.json"
    shift_polygons(catch_folder, path, {"SCC_01_1.svs": [(118, 0), (0, 5000), (60, 0)], "MCT_04_1.svs": [(-11, 0)]})
    sampling = Sampling(3, 16, 8.0, annotated_per_type=None)
    with pytest.warns(UserWarning, match="outside") as caught:
        paths = make_catch(catch_folder / "slides", path, tmp_path / "cache", sampling).save(tmp_path / "out")
    slides = catch_folder / "slides"
    told = [str(warning.message) for warning in caught if warning.category is UserWarning]  # no garbage of other tests
    assert told == [
        f"{slides / 'MCT/MCT_04_1.svs'}: 0 of 3 polygons lie wholly and 1 partly outside of the slide of 128×128 px",
        f"{slides / 'SCC/SCC_01_1.svs'}: 2 of 5 polygons lie wholly and 1 partly outside of the slide of 128×128 px",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- Polygons wholly and partly outside of their slide: MCT_04_1.svs 0 and 1, SCC_01_1.svs 2 and 1.\n" in card
    assert sum(len(load_patches(path)) for path in paths.values()) == 30


def test_a_slide_that_no_polygon_reaches_is_refused_before_any_patch_is_cut(catch_folder, tmp_path, monkeypatch):
    """Its masks would all be background."""
    path = tmp_path / "CATCH.json"
    content, numbers = shift_polygons(catch_folder, path, {"SCC_01_1.svs": [(500, 0), (0, 500)]})
    first = [one for one in content["annotations"] if one["image_id"] == numbers["SCC_01_1.svs"]][:2]
    content["annotations"] = [one for one in content["annotations"] if one not in first]
    path.write_text(json.dumps(content))
    monkeypatch.setattr(Slide, "read", lambda *_: pytest.fail("read a slide"))
    sampling = Sampling(3, 16, 8.0, annotated_per_type=None)
    message = fault(make_catch, catch_folder / "slides", path, tmp_path / "cache", sampling)
    assert message == (
        f"{catch_folder / 'slides/SCC/SCC_01_1.svs'}: all of its 2 polygons lie outside of the slide of 128×128 px; "
        "were they drawn on another slide, or at another resolution?"
    )


def test_patches_are_handed_on_one_by_one(catch_folder, monkeypatch):
    """The second slide is not opened before the first one's patches are out."""
    opened = []
    monkeypatch.setattr(slide_jobs, "Slide", lambda path: opened.append(path.name) or Slide(path))
    paths = sorted((catch_folder / "slides" / "MCT").glob("*.svs"))[:2]
    rows = slide_jobs.cut([slide_jobs.SlideJob(path) for path in paths], SMALL, SMALL.class_index, "train")
    assert next(rows)["slide"] == "MCT_01_1.svs"
    assert opened == ["MCT_01_1.svs"]
    assert [row["slide"] for row in rows] == ["MCT_01_1.svs"] * 2 + ["MCT_02_1.svs"] * 3
    assert opened == ["MCT_01_1.svs", "MCT_02_1.svs"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": "tumor"}, "did you mean 'tumour'"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"test_fraction": 0.9}, "together they must stay below 1"),
        ({"annotated_per_type": 0}, "annotated_per_type=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_faults_of_the_settings_are_named(changes, words):
    assert words in fault(Sampling, error=ValueError, **changes)


def test_every_set_of_classes_knows_every_class_of_catch():
    assert len(CLASS_IDS) == 13
    for names, values in CLASS_SETS.values():
        assert set(values) == set(CLASS_IDS)
        assert set(values.values()) | {0} == set(range(len(names)))
