#!/usr/bin/env bash
# rasterio 1.4.4 (GDAL 3.10.3) makes a hole one row too small, where its upper edge runs through the centres of pixels.
#
# A square of 7×7 px with a hole of 3×3, and the square of 3×3 that fills the hole. Whole-number annotations have edges
# through centres on every mask at an even downsample. rasterio gives a centre on a border to one of two polygons that
# touch, and loses or doubles none, as long as no polygon has a hole: but the hole's upper row is painted as well, since
# GDAL paints level edges that run through centres apart from the rest, in one of two directions. So polygon and filling
# count 3 pixels of 49 twice, and the polygon's area is 43 where it should be 40. No warning. The direction in which the
# rings are given makes no difference.
# What a caller should do: move the polygons by a billionth of a pixel up before rasterising.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import rasterio
from rasterio.features import rasterize


def square(start, end, up, way):
    return [(x, y - up) for x, y in ((start, start), (end, start), (end, end), (start, end), (start, start))][::way]


def areas(up, way):
    """Pixels of the square with its hole, of what fills the hole, and of those in both."""
    outer, inner = square(0.5, 7.5, up, 1), square(2.5, 5.5, up, way)
    holed = rasterize([{"type": "Polygon", "coordinates": [outer, inner]}], (9, 9), dtype="uint8")
    filling = rasterize([{"type": "Polygon", "coordinates": [inner]}], (9, 9), dtype="uint8")
    return int(holed.sum()), int(filling.sum()), int((holed & filling).sum())


print(f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}")
for way in (1, -1):
    on_centres, moved = areas(0, way), areas(1e-9, way)
    print(f"with a hole, its filling, both: {on_centres} pixels; a billionth higher: {moved}")
    assert on_centres == (43, 9, 3), "the behaviour changed"
    assert moved == (40, 9, 0), "the behaviour changed"
PYTHON
