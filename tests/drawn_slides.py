"""Slides that tests draw: pyramids of tiles, some of them left out."""

import numpy as np
import tifffile

TILE = 64  # px


def halved(picture, factor):
    """The picture at a coarser level: the mean of each square."""
    rows, columns = (side // factor for side in picture.shape[:2])
    blocks = picture[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3)
    return np.round(blocks.mean((1, 3))).astype(np.uint8)


def write_pyramid(path, picture, microns=1.0, factors=(1,), left_out=None, **tags):
    """Write a tiled pyramid; ``left_out``: by level, the (row, column) of tiles that the file is to lack."""
    with tifffile.TiffWriter(path) as file:
        for level, factor in enumerate(factors):
            options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "deflate", "metadata": None}
            if microns:
                options |= {"resolution": (1e4 / microns / factor,) * 2, "resolutionunit": "CENTIMETER"}
            file.write(halved(picture, factor), subfiletype=int(level > 0), **{**options, **tags})
    leave_out(path, left_out or {})
    return path


def leave_out(path, left_out):
    """Take tiles out of a file, as a scanner does that left them out: of length zero."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for level, places in left_out.items():
            page = file.pages[level]
            _, n_columns, _ = page.chunked
            for name in ("TileOffsets", "TileByteCounts"):
                values = list(page.tags[name].value)
                for row, column in places:
                    values[row * n_columns + column] = 0
                page.tags[name].overwrite(values)


def disc(shape, row, column, radius):
    """Whether each pixel's centre lies in a disc."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def write_scn(path, pictures, corners, size, microns=1.0, factors=(1, 4)):
    """Write a slide of several scanned regions as Leica does: each a pyramid, at its corner (x, y) in pixels."""
    nanometres = round(1000 * microns)
    pages, images = [], []
    for picture, (x, y) in zip([np.zeros((16, 16, 3), np.uint8), *pictures], [(0, 0), *corners], strict=True):
        is_macro = not pages
        levels = [picture] if is_macro else [halved(picture, factor) for factor in factors]
        dimensions = "".join(
            f'<dimension r="{row}" ifd="{len(pages) + row}" sizeX="{level.shape[1]}" sizeY="{level.shape[0]}"/>'
            for row, level in enumerate(levels)
        )
        width, height = size if is_macro else picture.shape[1::-1]
        images.append(
            f'<image name="{len(images)}"><creationDate>2026</creationDate><device model="m" version="1"/>'
            f'<pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels>'
            f'<view sizeX="{width * nanometres}" sizeY="{height * nanometres}" offsetX="{x * nanometres}" '
            f'offsetY="{y * nanometres}"/><scanSettings><objectiveSettings><objective>20</objective>'
            "</objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>"
            "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        )
        pages += levels
    description = (
        f'<scn><collection sizeX="{size[0] * nanometres}" sizeY="{size[1] * nanometres}">{"".join(images)}'
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path) as file:
        for row, page in enumerate(pages):
            options = {"description": description} if row == 0 else {}
            file.write(page, tile=(TILE, TILE), photometric="rgb", compression="deflate", metadata=None, **options)
    return path
