#!/usr/bin/env bash
# Pillow 13 and tifffile 2026.3.3 read different values from one label mask, where its TIFF says WhiteIsZero.
#
# A mask of class indices 0, 1 and 2, stored in 8 bits with PhotometricInterpretation 0 (WhiteIsZero), as some
# annotation and fax-descended tools write it. tifffile hands out what is stored, 0, 1 and 2; Pillow inverts, so the same
# pixels are 255, 254 and 253, which looks like a mask of "unknown" and two impossible classes. Neither warns.
# What a reader should do: look at the tag, and read label masks of this kind without the inversion, or refuse them.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import numpy as np
import PIL
import tifffile
from PIL import Image

mask = np.repeat(np.array([[0, 1, 2]], np.uint8), 4, axis=0)
tifffile.imwrite("mask.tif", mask, photometric="miniswhite")
stored = np.unique(tifffile.imread("mask.tif")).tolist()
shown = np.unique(np.asarray(Image.open("mask.tif"))).tolist()
print(f"tifffile {tifffile.__version__}: {stored}; Pillow {PIL.__version__}: {shown}")
assert stored == [0, 1, 2]
assert shown == [253, 254, 255], "the behaviour changed"
PYTHON
