"""Annotations of QuPath, ASAP, ImageScope and HALO: areas as the tool shows them, classes as the tool names them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import shapely

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.annotations import read_polygons
from sedm.data.slides.polygons import as_polygon, rasterise

SQUARE = [[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]


def square(left, top, side):
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]


def crossings(ring, x, y):
    """Whether a point is inside a ring, by the edges that a ray from it crosses."""
    inside = False
    for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            inside = not inside
    return inside


def fault(path, **options) -> str:
    """The one line in which reading ends, without the path it begins with."""
    with pytest.raises(PatchTableError) as caught:
        read_polygons(path, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def described(path, **options):
    (drawn,) = read_polygons(path, **options).values()
    return [(polygon.class_name, polygon.shape.area) for polygon in drawn]


# ------------------------------------------------------------------------------------------ holes


@pytest.mark.parametrize(
    "holes",
    [
        [square(2, 2, 3)],
        [square(0, 2, 3)],  # along the border
        [square(-2, 2, 4)],  # sticking out
        [square(1, 1, 4), square(3, 3, 4)],  # one over the other
        [square(1, 1, 4), square(2, 2, 1)],  # one in the other
        [square(1, 1, 3), square(4, 1, 3)],  # side by side
        [square(6, 6, 9), square(-1, 6, 4), square(3, 3, 2)],
    ],
)
def test_a_hole_stays_a_hole_wherever_it_lies(holes):
    shape = as_polygon("a", SQUARE, holes).shape
    assert shape.is_valid
    polygon = rasterise([as_polygon("a", SQUARE, holes)], {"a": 1}, -4, -4, 1, (20, 20))
    for row in range(20):
        for column in range(20):
            x, y = column - 3.5, row - 3.5
            held = crossings(SQUARE, x, y) and not any(crossings(hole, x, y) for hole in holes)
            assert polygon[row, column] == held
    repaired = shapely.make_valid(shapely.Polygon(SQUARE, holes), method="structure")
    assert shape.symmetric_difference(repaired).area == 0


# ------------------------------------------------------------------------------------------ QuPath


def feature(geometry, **properties):
    return {"type": "Feature", "id": "5e-1", "geometry": geometry, "properties": properties}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


TUMOR = {"name": "Tumor", "color": [200, 0, 0]}


def write_json(folder: Path, content, name="a.geojson") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("form", ["collection", "list", "single"])
def test_features_are_read_in_each_form_that_qupath_writes(tmp_path, form):
    one = feature(polygon(SQUARE, square(2, 2, 3)), objectType="annotation", classification=TUMOR, name="left one")
    forms = {"collection": {"type": "FeatureCollection", "features": [one]}, "list": [one], "single": one}
    assert described(write_json(tmp_path, forms[form])) == [("Tumor", 64 - 9)]


def test_parts_add_up_and_derived_classes_have_their_whole_name(tmp_path):
    parts = {"type": "MultiPolygon", "coordinates": [[SQUARE, square(2, 2, 3)], [square(4, 4, 8)]]}
    both = {"type": "GeometryCollection", "geometries": [polygon(SQUARE), {"type": "Point", "coordinates": [1, 2]}]}
    content = [
        feature(parts, classification={"names": ["Tumor", "Positive"]}),
        feature(both, classification={"name": "Stroma", "colorRGB": -1}),
    ]
    path = write_json(tmp_path, content)
    union = 64 - 9 + 64 - 16 + 1  # the second part covers a corner of the hole
    assert sorted(described(path)) == [("Stroma", 64), ("Tumor: Positive", union)]


def test_inner_objects_lie_on_top_whatever_their_order(tmp_path):
    content = [feature(polygon(square(2, 2, 2)), classification=TUMOR)]
    content.append(feature(polygon(SQUARE), classification={"name": "Stroma"}))
    assert described(write_json(tmp_path, content)) == [("Stroma", 64), ("Tumor", 4)]


def test_objects_without_area_or_class_are_left_out_by_name_or_taken_as_told(tmp_path):
    content = [
        feature(polygon(SQUARE), name="region 7"),
        feature(polygon(SQUARE), classification=None, name="region 5"),
        feature(polygon(SQUARE)),
        feature({"type": "Point", "coordinates": [1, 2]}, classification=TUMOR),
        feature({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}, classification=TUMOR),
        feature(None, classification=TUMOR),
        feature(polygon([[0, 0], [4, 4], [0, 0]]), classification=TUMOR),
        {**feature(polygon(SQUARE), classification=TUMOR), "properties": None},
    ]
    path = write_json(tmp_path, content)
    with pytest.warns(UserWarning, match="annotations left out") as caught:
        assert described(path) == []
    assert str(caught[0].message) == (
        f"{path}: annotations left out: line (1), no area (1), no class, named 'region 5', 'region 7' (4), "
        "no outline (1), point (1); unclassified=CLASS takes those without one as a class, names_are_classes=True "
        "their names"
    )
    with pytest.warns(UserWarning, match=r"left out: line \(1\), no area \(1\), no outline \(1\), point \(1\)$"):
        assert described(path, unclassified="tissue") == [("tissue", 64)] * 4
    with pytest.warns(UserWarning, match=r"no class \(2\)"):
        assert described(path, names_are_classes=True) == [("region 7", 64), ("region 5", 64)]


def test_cells_are_outlined_by_themselves_or_by_their_nuclei(tmp_path):
    cell = {
        **feature(polygon(SQUARE), objectType="cell", classification=TUMOR),
        "nucleusGeometry": polygon(square(2, 2, 3)),
    }
    bare = feature(polygon(SQUARE), objectType="cell", classification=TUMOR)
    path = write_json(tmp_path, [cell, bare, feature(polygon(square(9, 9, 2)), classification=TUMOR)])
    assert sorted(described(path)) == [("Tumor", 4), ("Tumor", 64), ("Tumor", 64)]
    with pytest.warns(UserWarning, match=r"cell without nucleus \(1\)"):
        assert described(path, nuclei=True) == [("Tumor", 9), ("Tumor", 4)]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ("abc", "features[1]: is abc; expected a Feature with geometry and properties"),
        (polygon(SQUARE), "features[1]: is {'type': 'Polygon'"),
        (
            feature({"type": "Circle"}),
            "features[1] (id 5e-1): geometry is {'type': 'Circle'}; expected a Polygon or Mult",
        ),
        (feature({"type": "Polygon", "coordinates": SQUARE}), "features[1] (id 5e-1): geometry is {'type': 'Polygon'"),
        (
            feature(polygon([[0, 0], ["a", 1], [2, 2]])),
            "features[1] (id 5e-1): corner 2 is ('a', 1); expected two numbe",
        ),
        (
            feature(polygon(SQUARE), classification="Tumor"),
            "features[1] (id 5e-1): classification is Tumor; expected a n",
        ),
        (feature(polygon(SQUARE), classification={"name": 5}), "classification is {'name': 5}; expected a name"),
    ],
)
def test_faults_of_features_are_named_by_place_and_id(tmp_path, one, words):
    content = {"type": "FeatureCollection", "features": [feature(polygon(SQUARE), classification=TUMOR), one]}
    message = fault(write_json(tmp_path, content))
    assert words in message
    assert len(message) < 250


def test_a_collection_without_features_is_refused_and_an_empty_one_is_empty(tmp_path):
    assert "without a list 'features'" in fault(write_json(tmp_path, {"type": "FeatureCollection", "features": None}))
    assert read_polygons(write_json(tmp_path, {"type": "FeatureCollection", "features": []})) == {"a": []}
    assert read_polygons(write_json(tmp_path, [])) == {"a": []}


@pytest.mark.parametrize(
    ("name", "areas"),
    [
        ("qupath_05.geojson", [("UT", 51687.5), ("I", 71159.0), ("I", 46151.5)]),
        ("qupath_brush.json", [("brush", 10071.9179)]),
        ("qupath_ellipse.json", [("ellipse", 45350.4538)]),
        ("qupath_rectangle.json", [("rectangle", 176 * 210)]),
        (
            "qupath_polygon-cell-classified.json",
            [("Cell", 103.602), ("Cell", 153.7854), ("Nucleus", 109.8578), ("Nucleus", 75.3428)],
        ),
    ],
)
def test_real_exports_of_qupath_have_the_areas_of_their_numbers(staged_data, recwarn, name, areas):
    """Areas by the shoelace formula on the numbers of each file; the ellipse is nearly that of its half axes."""
    path = staged_data / "annotations_real" / name
    read = described(path, names_are_classes=True)
    assert [one for one, _ in read] == [one for one, _ in areas]
    assert [area for _, area in read] == pytest.approx([area for _, area in areas])
    if "classified" not in name:
        with pytest.warns(UserWarning, match=rf"no class, named '{areas[-1][0]}'"):
            assert described(path) == []
    if "ellipse" in name:
        ((_, area),) = read
        (one,) = read_polygons(path, unclassified="a")["qupath_ellipse"]
        left, top, right, bottom = one.shape.bounds
        assert area == pytest.approx(np.pi / 4 * (right - left) * (bottom - top), rel=1e-3)


# ------------------------------------------------------------------------------------------ ASAP


def asap(*annotations) -> str:
    """``annotations``: type, group and corners, or ready text."""
    text = ""
    for row, (kind, group, corners) in enumerate(annotations):
        coordinates = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in corners)
        text += (
            f'<Annotation Name="Annotation {row}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
            f"<Coordinates>{coordinates}</Coordinates></Annotation>"
        )
    groups = '<AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#64FE2E"><Attributes /></Group>'
    content = f"<Annotations>{text}</Annotations>{groups}</AnnotationGroups>"
    return f'<?xml version="1.0"?>\n<ASAP_Annotations>{content}</ASAP_Annotations>'


def write(folder, text, name="a.xml"):
    path = folder / name
    path.write_text(text)
    return path


def numbered(ring):
    return list(enumerate(ring[:4]))


def test_groups_are_classes_and_corners_have_an_order(tmp_path):
    shuffled = [(order, corner) for order, corner in numbered(SQUARE)][::-1]
    shuffled = [shuffled[row] for row in (1, 3, 0, 2)]  # taken as they stand, these cross
    path = write(
        tmp_path,
        asap(
            ("Polygon", "Tumor", shuffled),
            ("Rectangle", "Exclusion", numbered(square(2, 2, 2))),
            ("Spline", "Tumor", numbered(square(9, 9, 3))),
            ("Dot", "Tumor", [(0, (1, 1))]),
            ("PointSet", "Tumor", numbered(SQUARE)),
            ("Measurement", "Tumor", numbered(SQUARE)),
            ("Polygon", "Tumor", []),
        ),
    )
    with pytest.warns(UserWarning, match=r"left out: dot \(1\), measurement \(1\), no area \(1\), point set \(1\)$"):
        assert described(path) == [("Tumor", 64), ("Exclusion", 4), ("Tumor", 9)]
    with pytest.warns(UserWarning, match="annotations left out"):
        drawn = read_polygons(path)["a"]
    mask = rasterise(drawn, {"Tumor": 1, "Exclusion": 0}, 0, 0, 1, (12, 12))
    assert mask.sum() == 64 - 4 + 9  # a hole in the manner of ASAP


def test_annotations_of_no_group_are_left_out_or_taken_as_told(tmp_path):
    path = write(tmp_path, asap(("Polygon", "None", numbered(SQUARE))))
    with pytest.warns(UserWarning, match=r"no class, named 'Annotation 0' \(1\)"):
        assert described(path) == []
    assert described(path, unclassified="Tumor") == [("Tumor", 64)]


def test_a_corner_that_is_nowhere_is_named_by_its_annotation(tmp_path):
    path = write(tmp_path, asap(("Polygon", "Tumor", [(0, (0, 0)), (1, (4, "left")), (2, (4, 4))])))
    assert fault(path) == (
        "annotation 1 ('Annotation 0'): corner 2 is (4.0, 'left'); expected two numbers of pixels from -1e9 to 1e9; "
        "mend or delete it in ASAP"
    )


def shoelace(ring):
    x, y = np.array(ring, float).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_real_files_of_asap_are_read_as_counted_by_hand(staged_data):
    folder = staged_data / "annotations_real"
    drawn = described(folder / "asap_tumor_076.xml")
    assert {name for name, _ in drawn} == {"metastasis"}
    blocks = (folder / "asap_tumor_076.xml").read_text().split("<Annotation ")[1:]
    by_hand = [shoelace(re.findall(r'X="([\d.]+)" Y="([\d.]+)"', block)) for block in blocks]
    assert len(drawn) == len(by_hand) == 39
    # three of the rings cross themselves, by loops of a few pixels
    assert [area for _, area in drawn] == pytest.approx(by_hand, rel=1e-6)
    assert sum(area for _, area in drawn) == pytest.approx(2_341_503_605, rel=1e-6)
    assert described(folder / "asap_polygon.xml", unclassified="a") == [("a", pytest.approx(28616.8116))]


# ------------------------------------------------------------------------------------------ ImageScope and HALO


def region(kind, corners, negative=0, tag="Vertex", **attributes):
    vertices = "".join(f'<{tag} X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    stated = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<Region Type="{kind}" NegativeROA="{negative}"{stated}><Vertices>{vertices}</Vertices></Region>'


def layers(*contents) -> str:
    """``contents``: attributes of a layer, its description or None, and its regions."""
    text = '<Annotations MicronsPerPixel="0.25">'
    for attributes, description, regions in contents:
        text += f"<Annotation {attributes}>"
        if description is not None:
            text += f'<Attributes><Attribute Name="Description" Id="0" Value="{description}"/></Attributes>'
        text += f"<Regions>{''.join(regions)}</Regions></Annotation>"
    return f"{text}</Annotations>"


def test_layers_are_classes_by_name_description_or_colour(tmp_path):
    path = write(
        tmp_path,
        layers(
            ('Name="Tumor" LineColor="65280"', "from the biopsy", [region(0, SQUARE, Text="first")]),
            ('Name="" LineColor="65280"', "Stroma", [region(0, SQUARE)]),
            ('Name="" LineColor="65535"', "", [region(0, SQUARE)]),  # red is the lowest byte: yellow
            ('LineColor="16711680"', None, [region(0, SQUARE)]),
        ),
    )
    assert [name for name, _ in described(path)] == ["Tumor", "Stroma", "#ffff00", "#0000ff"]
    (first, *_) = read_polygons(path)["a"]
    assert first.name == "first"


@pytest.mark.parametrize(
    ("box", "ellipse", "tag", "others"),
    [(1, 2, "Vertex", [3, 4]), ("Rectangle", "Ellipse", "V", ["Ruler", "Pin"])],
)
def test_boxes_and_ellipses_are_kept_as_corners(tmp_path, box, ellipse, tag, others):
    regions = [
        region(box, square(2, 3, 5), tag=tag),
        region(box, [(7, 8), (2, 3)], tag=tag),
        region(box, [(4, 0), (8, 4), (4, 8), (0, 4)], tag=tag),  # turned
        region(ellipse, [(100, 300), (0, 100)], tag=tag),
        *(region(kind, SQUARE, tag=tag) for kind in others),
    ]
    path = write(tmp_path, layers(('Name="a"', None, regions)), "a.annotations")
    words = {3: r"arrow \(1\), ruler \(1\)$", "Ruler": r"pin \(1\), ruler \(1\)$"}[others[0]]
    with pytest.warns(UserWarning, match=words):
        *boxes, oval = read_polygons(path)["a"]
    assert [one.shape.area for one in boxes] == [25, 25, 32]
    assert oval.shape.bounds == pytest.approx((0, 100, 100, 300))
    assert oval.shape.area == pytest.approx(np.pi * 50 * 100, rel=1e-4)


def test_negative_regions_are_holes_in_their_layer_alone_and_spare_islands(tmp_path):
    outer, hole, island, beside = square(0, 0, 20), square(4, 4, 8), square(6, 6, 2), square(30, 30, 4)
    crossing = square(16, 16, 8)  # sticks out
    regions = [region(0, outer), region(0, hole, 1), region(0, island), region(0, crossing, 1), region(0, beside, 1)]
    path = write(tmp_path, layers(('Name="a"', None, regions), ('Name="b"', None, [region(0, outer)])))
    with pytest.warns(UserWarning, match=r"left out: hole beside all areas \(1\)$"):
        assert described(path) == [("a", 400 - 64 - 16), ("a", 4), ("b", 400)]


def test_a_corner_that_is_nowhere_is_named_by_its_layer_and_region(tmp_path):
    path = write(tmp_path, layers(('Name="a"', None, [region(0, SQUARE), region(0, [(0, 0), ("", 1)], Id="12")])))
    assert fault(path).startswith("layer 'a', region 12: corner 2 is ('', 1.0); expected two numbers")


def test_real_files_of_imagescope_and_halo_are_read_as_counted_by_hand(staged_data):
    """Areas by the shoelace formula on the numbers of each file; HALO's seventh region is a hole in the fourth."""
    folder = staged_data / "annotations_real"
    assert described(folder / "imagescope.xml") == [("#ffff00", pytest.approx(7225336.4843))]
    assert described(folder / "halo_holes.annotations") == [
        ("Layer 1", 22071099.0),
        ("Layer 1", 20128904.5),
        ("Layer 2", 19324756.0),
        ("Layer 3", 36869839.0 - 7348.5),
        ("Layer 3", 17917870.5),
        ("Layer 3", 18865002.5),
    ]


# ------------------------------------------------------------------------------------------ XML


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_xml_is_read_in_the_encodings_of_windows(tmp_path, encoding):
    path = tmp_path / "a.xml"
    path.write_text(
        asap(("Polygon", "Tumör", numbered(SQUARE))).replace("?>", f' encoding="{encoding[:6].rstrip("-")}"?>'),
        encoding,
    )
    assert described(path) == [("Tumör", 64)]


def test_xml_that_declares_entities_is_refused(tmp_path):
    text = asap(("Polygon", "&group;", numbered(SQUARE)))
    text = text.replace("?>", '?><!DOCTYPE a [<!ENTITY group "Tumor">]>')
    assert fault(write(tmp_path, text)) == "XML with a document type or entities; annotation tools write none"
