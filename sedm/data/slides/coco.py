"""Polygons and masks from JSON in the manner of COCO, the format of CATCH's authors and of many drawing tools.

An object is outlined in one of three ways, and all are read:

- rings ``[[x, y, x, y, …], …]``, the parts of the object, which add up: a ring inside another is no hole, as in
  pycocotools. CATCH writes a single ring without the outer list. Where a ring runs into itself, the even-odd rule says
  what is inside;
- a mask as run lengths ``{"size": [height, width], "counts": […]}``, which keeps its holes;
- the same with the counts as compressed text.

An object may have a box and no outline. Its mask is not known then, so it is refused, unless the box is said to be all
of it. COCO's boxes are left, top, width and height; some files (MIDOG) write left, top, right and bottom instead, and
give themselves away by boxes that would leave their images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sedm.data.mask_runs import decode_counts
from sedm.data.patch_table import PatchTableError
from sedm.data.slides.polygons import Polygon, as_polygon
from sedm.data.slides.run_lengths import outline_runs

MAX_SIDE = 1 << 20  # px of a mask: no slide is larger, and a false size must not fill the memory


def read_coco(
    path: Path, content: Any, boxes_are_areas: bool = False
) -> tuple[list[tuple[str, list[Polygon]]], Counter[str]]:
    """Read the polygons of every image, in the order of ``annotations``.

    Args:
        path: what the errors name.
        content: of the file, as ``json`` reads it.
        boxes_are_areas: read the box of an object without outline as a rectangle that is all object.

    Returns:
        File name and polygons of each image, and how many annotations were left out for which reason.

    Raises:
        PatchTableError: what is missing or wrong, by the place and the id of the annotation.

    >>> content = {"images": [{"id": 1, "file_name": "a.svs"}], "categories": [{"id": 3, "name": "Dermis"}]}
    >>> mask = {"size": [2, 3], "counts": [2, 4]}
    >>> content["annotations"] = [{"id": 7, "image_id": 1, "category_id": 3, "segmentation": mask}]
    >>> [(name, [polygon])], _ = read_coco(Path("a.json"), content)
    >>> name, polygon.shape.bounds
    ('a.svs', (1.0, 0.0, 3.0, 2.0))
    """
    keys = list(content) if isinstance(content, dict) else []
    for part in ("images", "categories", "annotations"):
        if part not in keys or not isinstance(content[part], list):
            present = ", ".join(map(repr, keys[:6])) or "none"
            raise PatchTableError(
                f"{path}: JSON without a list {part!r} (its keys: {present}); expected COCO's images, categories and "
                "annotations"
            )
    images = _by_id(path, content["images"], "images", name="file_name")
    categories = _by_id(path, content["categories"], "categories", name="name")
    polygons: dict[Any, list[Polygon]] = {number: [] for number in images}
    left_out: Counter[str] = Counter()
    has_corners = boxes_are_areas and _boxes_are_corners(content["annotations"], images)
    for row, annotation in enumerate(content["annotations"]):
        try:
            image = _look_up(annotation, "image_id", images)
            category = _look_up(annotation, "category_id", categories)
            segmentation = annotation.get("segmentation")
            if not segmentation and boxes_are_areas:
                segmentation = _box_ring(annotation.get("bbox"), has_corners)
            parts = list(_parts(segmentation, image, category["name"]))
        except ValueError as error:
            number = f" (id {annotation['id']})" if isinstance(annotation, dict) and "id" in annotation else ""
            raise PatchTableError(f"{path}: annotations[{row}]{number}: {error}") from error
        polygons[image["id"]] += parts
        if not parts:
            left_out["no area"] += 1
    return [(image["file_name"], polygons[number]) for number, image in images.items()], left_out


def _by_id(path: Path, entries: list, part: str, name: str) -> dict[Any, dict]:
    """Index the images or categories by their ids, and check that each has a name."""
    by_id: dict[Any, dict] = {}
    for row, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")) or not isinstance(entry.get(name), str):
            raise PatchTableError(f"{path}: {part}[{row}] is {str(entry)[:100]}; expected an id and a {name}")
        if by_id.setdefault(entry["id"], entry)[name] != entry[name]:
            names = f"{by_id[entry['id']][name]!r} and {entry[name]!r}"
            raise PatchTableError(f"{path}: {part}: {names} have the same id {entry['id']!r}; give each its own")
    return by_id


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, float, str))


def _look_up(annotation: Any, key: str, entries: Mapping[Any, dict]) -> dict:
    """Look up the image or the category that an annotation names by its id."""
    if not isinstance(annotation, dict) or key not in annotation:
        raise ValueError(f"has no {key}; expected image_id, category_id and segmentation")
    number = annotation[key]
    if not _is_id(number) or number not in entries:
        raise ValueError(f"{key} {number!r} is not among the file's {'images' if key == 'image_id' else 'categories'}")
    return entries[number]


def _parts(segmentation: Any, image: Mapping[str, Any], class_name: str) -> Iterator[Polygon]:
    """Read the parts of one object that have an area."""
    if isinstance(segmentation, dict):
        for piece in outline_runs(*_runs(segmentation, image)):
            yield Polygon(class_name, piece)
        return
    if not segmentation:
        raise ValueError(
            "has no segmentation, and a box is no outline; draw one, take the annotation out, or read boxes "
            "as areas (boxes_are_areas=True, --boxes-are-areas)"
        )
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation is {str(segmentation)[:100]!r}; expected rings or run lengths")
    rings = segmentation if any(isinstance(part, list) for part in segmentation) else [segmentation]
    for number, ring in enumerate(rings, start=1):
        if not isinstance(ring, list) or any(isinstance(value, list) for value in ring):
            raise ValueError(f"ring {number} of the segmentation is no list of numbers x, y, x, y, …")
        if len(ring) % 2 or len(ring) < 6:
            raise ValueError(
                f"ring {number} of the segmentation has {len(ring)} numbers; expected x, y, x, y, … of three corners "
                "or more"
            )
        try:
            part = as_polygon(class_name, list(zip(ring[::2], ring[1::2], strict=True)))
        except ValueError as error:
            raise ValueError(f"ring {number} of the segmentation: {error}") from error
        if part:
            yield part


def _box_ring(box: Any, has_corners: bool) -> list[float]:
    """Draw a box as a ring x, y, x, y, …"""
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise ValueError(f"has no segmentation, and its bbox is {str(box)[:80]}; expected four numbers")
    left, top, *rest = box
    right, bottom = rest if has_corners else (left + rest[0], top + rest[1])
    return [left, top, right, top, right, bottom, left, bottom]


def _boxes_are_corners(annotations: list, images: Mapping[Any, dict]) -> bool:
    """Tell whether boxes hold right and bottom, since as width and height more of them would leave their images."""
    n_leaving = Counter[bool]()
    for annotation in annotations:
        box = annotation.get("bbox") if isinstance(annotation, dict) else None
        image = images.get(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image is None or not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            continue  # the reader names it
        size = [image.get("width"), image.get("height")]
        if not all(map(_is_number, size)):
            continue
        for axis in (0, 1):
            start, end = box[axis], box[axis + 2]
            n_leaving[False] += start + end > size[axis]
            n_leaving[True] += end > size[axis] or end <= start
    return n_leaving[True] < n_leaving[False]


def _runs(mask: Mapping[str, Any], image: Mapping[str, Any]) -> tuple[list[int], int]:
    """Read the lengths of the runs, and the height of the mask."""
    size = mask.get("size")
    counts = mask.get("counts")
    is_list = isinstance(size, list) and all(_is_whole(side) for side in size)
    if not is_list or len(size) != 2 or not 0 < min(size) <= max(size) <= MAX_SIDE:
        raise ValueError(f"size of the mask is {size}; expected [height, width] in pixels, {MAX_SIDE} at most")
    height, width = size
    stated = [image.get("height"), image.get("width")]
    if all(stated) and stated != size:
        raise ValueError(
            f"a mask of {width}×{height} px on an image of {stated[1]}×{stated[0]} px; expected one value a pixel of "
            "the finest level"
        )
    if isinstance(counts, str):
        counts = decode_counts(counts)
    if not isinstance(counts, list) or not all(_is_whole(count) and count >= 0 for count in counts):
        raise ValueError("counts of the mask are no run lengths; expected whole numbers from 0, or COCO's text of them")
    if sum(counts) != height * width:
        raise ValueError(f"counts of the mask add up to {sum(counts)} pixels; size {size} has {height * width}")
    return counts, height


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
