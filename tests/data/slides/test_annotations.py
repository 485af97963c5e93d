"""Annotation files: each format is read as its own programs read it, and what is not read is told in one sentence."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.annotations import read_polygons
from sedm.data.slides.polygons import rasterise

IMAGES = [{"id": 1, "file_name": "a.svs", "height": 16, "width": 20}, {"id": 2, "file_name": "b.svs"}]
CATEGORIES = [{"id": 3, "name": "Dermis"}]
SQUARE = [0, 0, 4, 0, 4, 4, 0, 4]


def write_coco(folder: Path, *segmentations, **changes) -> Path:
    """A file of objects on a.svs, their ids from 70; ``changes`` replace a part of each."""
    annotations = [
        {"id": 70 + row, "image_id": 1, "category_id": 3, "segmentation": segmentation} | changes
        for row, segmentation in enumerate(segmentations)
    ]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": IMAGES, "categories": CATEGORIES, "annotations": annotations}))
    return path


# Source of the older tables: those of the published MITOS and TUPAC data bases; no `deleted`, no `guid`
OLDER = """
CREATE TABLE `Slides` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `filename` TEXT, `width` INTEGER,
    `height` INTEGER, `directory` TEXT);
CREATE TABLE `Annotations` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `slide` INTEGER, `type` INTEGER,
    `agreedClass` INTEGER);
CREATE TABLE `Annotations_coordinates` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `coordinateX` INTEGER,
    `coordinateY` INTEGER, `slide` INTEGER, `annoId` INTEGER, `orderIdx` INTEGER);
CREATE TABLE `Classes` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `name` TEXT);
CREATE TABLE `Annotations_label` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `person` INTEGER, `class` INTEGER,
    `annoId` INTEGER);
INSERT INTO Slides VALUES (1, 'a.svs', NULL, NULL, NULL), (2, 'b.svs', NULL, NULL, '');
INSERT INTO Classes VALUES (1, 'Dermis'), (2, 'SCC');
"""
SPOT, RECTANGLE, POLYGON, SPECIAL_SPOT, CIRCLE, WHOLE_IMAGE = range(1, 7)


def write_older(folder: Path, annotations: list[tuple], more: str = "") -> Path:
    """A data base of the older kind; ``annotations``: slide, type, number of the class or None, corners."""
    path = folder / "older.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(OLDER)
        for number, (slide, kind, label, corners) in enumerate(annotations, start=1):
            database.execute("INSERT INTO Annotations VALUES (?, ?, ?, ?)", (number, slide, kind, label))
            if label is not None:
                database.execute("INSERT INTO Annotations_label (class, annoId) VALUES (?, ?)", (label, number))
            rows = [(x, y, slide, number, order) for order, (x, y) in enumerate(corners, start=1)]
            database.executemany("INSERT INTO Annotations_coordinates VALUES (NULL, ?, ?, ?, ?, ?)", rows)
        database.executescript(more)
    return path


def area(path: Path, slide: str = "a.svs", shape: tuple[int, int] = (16, 20)) -> int:
    """Pixels of Dermis."""
    return int((rasterise(read_polygons(path)[slide], {"Dermis": 1, "SCC": 2}, 0, 0, 1, shape) == 1).sum())


def fault(path: Path) -> str:
    """The one line in which reading ends, without the path it begins with."""
    with pytest.raises(PatchTableError) as caught:
        read_polygons(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


# ------------------------------------------------------------------------------------------ COCO

OUTER = [0, 0, 16, 0, 16, 16, 0, 16, 0, 0]
INNER = [4, 4, 12, 4, 12, 12, 4, 12, 4, 4]


def test_rings_of_one_object_add_up_and_a_ring_that_runs_inwards_has_a_hole(tmp_path):
    """pycocotools fills the first as well: 256 pixels."""
    assert area(write_coco(tmp_path, [OUTER, INNER])) == 256
    assert area(write_coco(tmp_path, [[*OUTER, *INNER, 0, 0]])) == 192
    assert area(write_coco(tmp_path, [*OUTER, *INNER, 0, 0])) == 192  # CATCH: without the outer list


FRAME = [0, 68, *[8, 8] * 7, 8, 68, 64]  # 16×16 with a hole of 8×8, on 16×20


@pytest.mark.parametrize("counts", [FRAME, "0T28TN0000000000000l1h1"])
@pytest.mark.parametrize("iscrowd", [0, 1])
def test_masks_as_run_lengths_keep_their_holes(tmp_path, counts, iscrowd):
    path = write_coco(tmp_path, {"size": [16, 20], "counts": counts}, iscrowd=iscrowd)
    (frame,) = read_polygons(path)["a.svs"]
    assert frame.shape.area == area(path) == 192
    mask = rasterise([frame], {"Dermis": 1}, 0, 0, 1, (16, 20))
    assert (mask[4:12, 4:12] == 0).all()
    assert (mask[:, 16:] == 0).all()


def test_run_lengths_go_down_the_columns(tmp_path):
    path = write_coco(tmp_path, {"size": [2, 3], "counts": [1, 3, 2]}, image_id=2)
    mask = rasterise(read_polygons(path)["b.svs"], {"Dermis": 1}, 0, 0, 1, (2, 3))
    assert mask.tolist() == [[0, 1, 0], [1, 1, 0]]


def test_rings_and_masks_are_painted_in_the_order_of_the_file(tmp_path):
    path = write_coco(tmp_path, {"size": [16, 20], "counts": FRAME}, [SQUARE], {"size": [16, 20], "counts": [0, 320]})
    assert [polygon.shape.area for polygon in read_polygons(path)["a.svs"]] == [192, 16, 320]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(tmp_path, encoding):
    path = write_coco(tmp_path, [SQUARE])
    path.write_text(path.read_text(), encoding=encoding)
    assert area(path) == 16


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "has no segmentation, and a box is no outline; draw one, take the annotation out, or read boxes"),
        ([], "has no segmentation, and a box is no outline; draw one, take the annotation out, or read boxes"),
        ("abc", "segmentation is 'abc'; expected rings or run lengths"),
        ([[0, 0, 4, 0, 4]], "ring 1 of the segmentation has 5 numbers; expected x, y, x, y, … of three corners"),
        ([SQUARE, [0, 0, 4, 4]], "ring 2 of the segmentation has 4 numbers"),
        ([[0, 0], [4, 0], [4, 4]], "ring 1 of the segmentation has 2 numbers"),
        ([[[0, 0], [4, 0], [4, 4]]], "ring 1 of the segmentation is no list of numbers x, y, x, y, …"),
        ([0, 0, [4, 0, 4, 4]], "ring 1 of the segmentation is no list of numbers x, y, x, y, …"),
        ([[0, 0, None, 4, 4, 4]], "corner 2 is (None, 4); expected two numbers of pixels from -1e9 to 1e9"),
        ([[0, 0, 4, 0, 4, float("nan")]], "corner 3 is (4, nan)"),
        ([[0, 0, float("inf"), 0, 4, 4]], "corner 2 is (inf, 0)"),
        ([[0, 0, 4, 0, 4, 1e300]], "corner 3 is (4, 1e+300)"),
        ([[0, 0, 10**400, 0, 4, 4]], "corner 2 is (1000"),
        ([["0", "0", "4", "0", "4", "4"]], "corner 1 is ('0', '0')"),
        ({"counts": [0, 320]}, "size of the mask is None; expected [height, width] in pixels"),
        ({"size": [16, 0], "counts": []}, "size of the mask is [16, 0]"),
        ({"size": [10**12, 10**12], "counts": [10**24]}, "[1000000000000, 1000000000000]; expected [height, width]"),
        ({"size": [20, 16], "counts": [0, 320]}, "a mask of 16×20 px on an image of 20×16 px"),
        ({"size": [16, 20]}, "counts of the mask are no run lengths"),
        ({"size": [16, 20], "counts": [330, -10]}, "counts of the mask are no run lengths"),
        ({"size": [16, 20], "counts": [0, 300]}, "counts of the mask add up to 300 pixels; size [16, 20] has 320"),
        ({"size": [16, 20], "counts": "0P8"}, "counts of the mask add up to 256 pixels; size [16, 20] has 320"),
        ({"size": [16, 20], "counts": "0P"}, "the counts break off within a number"),
    ],
)
def test_faults_of_an_object_are_named_by_its_place_and_id(tmp_path, segmentation, words):
    path = write_coco(tmp_path, [SQUARE], segmentation)
    message = fault(path)
    assert message.startswith(": annotations[1] (id 71): ")
    assert words in message
    assert len(message) < 250


def test_a_box_without_segmentation_is_refused(tmp_path):
    path = write_coco(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"] = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4]}]
    path.write_text(json.dumps(content))
    assert fault(path).startswith(": annotations[0]: has no segmentation, and a box is no outline")


def test_boxes_are_areas_where_the_caller_says_so(tmp_path):
    path = write_coco(tmp_path, [SQUARE], None, bbox=[2, 3, 5, 7])
    drawn = read_polygons(path, boxes_are_areas=True)["a.svs"]
    assert [polygon.shape.bounds for polygon in drawn] == [(0, 0, 4, 4), (2, 3, 7, 10)]  # left, top, width, height
    for box in (None, [1, 2, 3], [1, 2, 3, "4"]):
        with pytest.raises(
            PatchTableError, match=r"id 70.*: has no segmentation, and its bbox is .*expected four numbers"
        ):
            read_polygons(write_coco(tmp_path, None, bbox=box), boxes_are_areas=True)


def test_boxes_of_corners_are_told_by_those_that_would_leave_their_image(tmp_path):
    """All boxes of a file are alike: one that could be either is read as the others."""
    path = write_coco(tmp_path, None, bbox=[12, 10, 18, 14])  # 12 + 18 > 20
    content = json.loads(path.read_text())
    content["annotations"].append({"image_id": 2, "category_id": 3, "bbox": [2, 3, 5, 7]})
    path.write_text(json.dumps(content))
    polygons = read_polygons(path, boxes_are_areas=True)
    assert [polygon.shape.bounds for drawn in polygons.values() for polygon in drawn] == [
        (12, 10, 18, 14),
        (2, 3, 5, 7),
    ]


def test_the_boxes_of_midog_are_squares_of_50_px(staged_data):
    """26,286 boxes in its list, all of corners 50 px apart, most of which would leave their image as widths."""
    path = staged_data / "annotations_real" / "midogpp_coco.json"
    assert fault(path).startswith(": annotations[0] (id 1): has no segmentation, and a box is no outline")
    polygons = read_polygons(path, boxes_are_areas=True)
    assert len(polygons) == 553
    assert {polygon.shape.area for drawn in polygons.values() for polygon in drawn} == {2500}
    assert Counter(polygon.class_name for drawn in polygons.values() for polygon in drawn) == {
        "mitotic figure": 11937,
        "not mitotic figure": 14349,
    }
    assert polygons["001.tiff"][0].shape.bounds == (4336, 346, 4386, 396)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_id": 9}, "image_id 9 is not among the file's images"),
        ({"image_id": "1"}, "image_id '1' is not among the file's images"),
        ({"image_id": [1]}, "image_id [1] is not among the file's images"),
        ({"category_id": None}, "category_id None is not among the file's categories"),
    ],
)
def test_unknown_images_and_categories_are_named(tmp_path, changes, words):
    assert fault(write_coco(tmp_path, [SQUARE], **changes)) == f": annotations[0] (id 70): {words}"


@pytest.mark.parametrize(
    ("part", "entries", "words"),
    [
        ("images", [{"id": 1}], "images[0] is {'id': 1}; expected an id and a file_name"),
        ("categories", [{"id": 3, "name": 5}], "categories[0] is {'id': 3, 'name': 5}; expected an id and a name"),
        ("categories", [*CATEGORIES, {"id": 3, "name": "SCC"}], "'Dermis' and 'SCC' have the same id 3"),
        ("annotations", [None], "annotations[0]: has no image_id; expected image_id, category_id and segmentation"),
        ("annotations", None, "JSON without a list 'annotations' (its keys: 'images', 'categories', 'annotations')"),
    ],
)
def test_faults_of_the_lists_are_named(tmp_path, part, entries, words):
    path = write_coco(tmp_path, [SQUARE])
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: entries}))
    assert words in fault(path)


def test_two_slides_of_one_name_are_refused_when_both_have_polygons(tmp_path):
    path = write_coco(tmp_path, [SQUARE])
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "a.svs"
    path.write_text(json.dumps(content))
    assert area(path) == 16  # the other is empty
    content["annotations"].append({**content["annotations"][0], "image_id": 2})
    path.write_text(json.dumps(content))
    assert fault(path) == ": polygons on two slides named a.svs; give each a file name of its own"


def test_objects_without_area_are_left_out_and_counted(tmp_path):
    path = write_coco(tmp_path, [SQUARE], [[0, 0, 4, 0, 2, 0]], {"size": [16, 20], "counts": [320]})
    with pytest.warns(UserWarning, match=r"coco.json: annotations left out: no area \(2\)$"):
        assert [polygon.shape.area for polygon in read_polygons(path)["a.svs"]] == [16]


# ------------------------------------------------------------------------------------------ SlideRunner

TRIANGLE = [(0, 0), (8, 0), (0, 8)]


def test_an_older_data_base_is_read(tmp_path):
    path = write_older(tmp_path, [(1, POLYGON, 1, TRIANGLE), (2, POLYGON, 2, [(1, 1), (5, 1), (5, 4), (1, 4), (1, 1)])])
    polygons = read_polygons(path)
    assert list(polygons) == ["a.svs", "b.svs"]
    assert [(one.class_name, one.shape.area) for one in polygons["a.svs"]] == [("Dermis", 32)]
    (square,) = polygons["b.svs"]
    assert square.class_name == "SCC"
    assert square.shape.exterior.coords[:] == [(1, 1), (5, 1), (5, 4), (1, 4), (1, 1)]


def test_deleted_annotations_are_passed_over_without_a_word(tmp_path, recwarn):
    deleted = "ALTER TABLE Annotations ADD deleted INTEGER; UPDATE Annotations SET deleted = 1 WHERE uid = 1;"
    spoilt = [(0, None), (8, 0), (0, 8)]
    path = write_older(tmp_path, [(1, POLYGON, 1, spoilt), (1, POLYGON, 2, TRIANGLE)], deleted)
    assert [polygon.class_name for polygon in read_polygons(path)["a.svs"]] == ["SCC"]  # the other has no value: kept
    assert len(recwarn) == 0


def test_rectangles_and_circles_are_areas_between_two_corners(tmp_path):
    """Source: SlideRunner/dataAccess/annotations.py, rectangularAnnotation and circleAnnotation."""
    path = write_older(tmp_path, [(1, RECTANGLE, 1, [(14, 9), (2, 3)]), (2, CIRCLE, 1, [(10, 20), (90, 100)])])
    assert area(path) == 12 * 6
    (circle,) = read_polygons(path)["b.svs"]
    row, column = np.mgrid[:120, :120] + 0.5
    mask = rasterise([circle], {"Dermis": 1}, 0, 0, 1, (120, 120)) == 1
    distance = np.hypot(column - 50, row - 60)
    assert mask[distance < 39.99].all()
    assert not mask[distance > 40].any()


def test_what_has_no_outline_no_class_or_no_area_is_left_out_and_counted(tmp_path):
    path = write_older(
        tmp_path,
        [
            (1, POLYGON, 1, TRIANGLE),
            (1, SPOT, 1, [(3, 3)]),
            (1, SPOT, None, [(3, 3)]),
            (1, SPECIAL_SPOT, 1, [(3, 3)]),
            (2, WHOLE_IMAGE, 1, []),
            (2, 9, 1, TRIANGLE),
            (1, POLYGON, None, TRIANGLE),
            (1, POLYGON, 1, [(3, 3), (5, 5)]),
            (1, POLYGON, 1, []),
            (1, RECTANGLE, 1, [(3, 3), (3, 9)]),
            (7, POLYGON, 1, TRIANGLE),
        ],
    )
    with pytest.warns(UserWarning, match="annotations left out") as caught:
        polygons = read_polygons(path)
    assert [len(drawn) for drawn in polygons.values()] == [1, 0]
    (warning,) = caught
    assert str(warning.message) == (
        f"{path}: annotations left out: no area (3), no class (1), special spot (1), spot (2), unknown slide (1), "
        "unknown type 9 (1), whole image (1); unclassified=CLASS takes those without one as a class"
    )


@pytest.mark.parametrize("kind", [POLYGON, RECTANGLE, CIRCLE])
@pytest.mark.parametrize(
    ("value", "shown"), [(None, "None"), ("nan", "'nan'"), (float("inf"), "inf"), (1e300, "1e+300"), (b"4", "b'4'")]
)
def test_corners_that_are_nowhere_are_refused_by_annotation_and_slide(tmp_path, kind, value, shown):
    """SQLite keeps NaN as NULL, and text in a column of numbers as text."""
    path = write_older(tmp_path, [(1, POLYGON, 1, TRIANGLE), (2, kind, 1, [(1, 2), (value, 3), (9, 9)])])
    assert fault(path) == (
        f": annotation 2 on b.svs: corner 2 is ({shown}, 3); expected two numbers of pixels from -1e9 to 1e9; "
        "mend or delete it in SlideRunner"
    )


def test_corners_without_a_number_keep_the_order_they_were_written_in(tmp_path):
    path = write_older(tmp_path, [(1, POLYGON, 1, TRIANGLE)], "UPDATE Annotations_coordinates SET orderIdx = NULL;")
    assert read_polygons(path)["a.svs"][0].shape.exterior.coords[:3] == TRIANGLE


@pytest.mark.parametrize(
    ("name", "n_slides", "n_outlines", "left_out"),
    [
        ("TUPAC_Mitosis_ROI.sqlite", 150, 444, None),  # rectangles, two corners each
        ("MITOS2012_test.sqlite", 15, 0, "spot (101)"),
    ],
)
def test_published_data_bases_are_read_as_counted_by_hand(staged_data, recwarn, name, n_slides, n_outlines, left_out):
    path = staged_data / "annotations_real" / name
    polygons = read_polygons(path)
    assert len(polygons) == n_slides
    assert [str(one.message) for one in recwarn] == [f"{path}: annotations left out: {left_out}"] * bool(left_out)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        by_hand = database.execute(
            """SELECT filename, name, (MAX(coordinateX) - MIN(coordinateX)) * (MAX(coordinateY) - MIN(coordinateY))
               FROM Annotations, Slides, Annotations_label, Classes, Annotations_coordinates
               WHERE Slides.uid = Annotations.slide AND Annotations_label.annoId = Annotations.uid
               AND Classes.uid = class AND Annotations_coordinates.annoId = Annotations.uid AND type IN (2, 3, 5)
               GROUP BY Annotations.uid"""
        ).fetchall()
    assert len(by_hand) == n_outlines
    read = [(slide, one.class_name, one.shape.area) for slide, drawn in polygons.items() for one in drawn]
    assert sorted(read) == sorted(by_hand)


# ------------------------------------------------------------------------------------------ other formats


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<annotations><ndpviewstate/></annotations>", "counts in nanometres from the centre of the glass; give the s"),
        (
            '<?xml version="1.0"?>\n<ASAP_Annotations><Ann',
            "broken XML (unclosed token: line 2, column 18); export it again",
        ),
        ('<omero:ROI xmlns:omero="x"/>', "seems to be XML (<ROI>); "),
        ('{"version": "5.0", "shapes": []}', "JSON without a list 'images' (its keys: 'version', 'shapes'); "),
        ('[{"image_id": 1, "score": 1}]', "JSON without a list 'images' (its keys: none); "),
        ("null", "JSON without a list 'images' (its keys: none); "),
        ("", "neither SQLite, nor XML, nor readable JSON (Expecting value"),
        ("[" * 100_000, "neither SQLite, nor XML, nor readable JSON (maximum recursion depth"),
    ],
)
def test_files_of_other_formats_are_told_by_what_they_seem_to_be(tmp_path, content, words):
    path = tmp_path / "a.file"
    path.write_text(content)
    message = fault(path)
    assert message.startswith(f": {words}")
    if "seems" in words:
        assert message.endswith("or JSON in the manner of COCO")
