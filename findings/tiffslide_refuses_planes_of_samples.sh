#!/usr/bin/env bash
# tiffslide 3.0.1 refuses an RGB image whose planes are apart, and reads the same planes where they are called channels.
#
# An OME-TIFF of a slide may store red, green and blue one after the other (PlanarConfiguration 2), as Bio-Formats and
# QuPath do. tifffile calls the axes of such an image SYX; tiffslide knows CYX alone and ends in "series with axes='SYX'
# not supported yet". With the label changed, every pixel is right.
# What a caller should do: change the label of each level before the properties are read, or read the planes by tifffile.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check tiffslide==3.0.1 tifffile==2026.3.3 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import numpy as np
import tifffile
import tiffslide

planes = np.random.default_rng(0).integers(0, 256, (3, 96, 128), np.uint8)
tifffile.imwrite("a.tif", planes, photometric="rgb", planarconfig="separate", tile=(32, 32))
try:
    tiffslide.TiffSlide("a.tif").dimensions
    message = "read"
except NotImplementedError as error:
    message = str(error)
slide = tiffslide.TiffSlide("a.tif")
level = slide.ts_tifffile.series[0].levels[0]
level._axes, level._axes_squeezed = "CYX", "CYX"
pixels = slide.read_region((10, 20), 0, (40, 30), as_array=True)
print(f"tiffslide {tiffslide.__version__}: {message}; as channels: {pixels.shape}")
assert "axes='SYX' not supported" in message, "the behaviour changed"
assert (pixels == planes.transpose(1, 2, 0)[20:50, 10:50]).all(), "the behaviour changed"
PYTHON
