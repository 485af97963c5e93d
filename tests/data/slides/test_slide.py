"""A slide says how large its pixels are, hands out true colours, and never passes off what was not scanned."""

import base64

import imagecodecs
import numpy as np
import pytest
import tifffile
from drawn_slides import TILE, disc, leave_out, write_pyramid, write_scn
from PIL import Image

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.cutting import sample_patches, sample_positions
from sedm.data.slides.polygons import as_polygon
from sedm.data.slides.sections import find_tissue
from sedm.data.slides.slide import Slide

GENERATOR = np.random.default_rng(0)
PINKS = GENERATOR.integers((160, 80, 130), (210, 130, 190), (32, 32, 3))
PICTURE = np.kron(PINKS, np.ones((16, 16, 1))).astype(np.uint8)  # 512 px of 1 µm, tissue from edge to edge
N_TILES = (512 // TILE) ** 2


def fault(call, *arguments, error=PatchTableError, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reduced(x, y, n, microns):
    """What a patch of ``n`` px shows, by the whole picture."""
    box = (x, y, x + n * microns, y + n * microns)
    return np.asarray(Image.fromarray(PICTURE).resize((n, n), Image.Resampling.LANCZOS, box)).astype(int)


# ------------------------------------------------------------------------------------------ resolution


def write_svs(path, description, size=(128, 128), **tags):
    tifffile.imwrite(
        path,
        np.full((*size[::-1], 3), 200, np.uint8),
        tile=(64, 64),
        photometric="rgb",
        metadata=None,
        description=description,
        **tags,
    )
    return path


def aperio(size, mpp):
    return f"Aperio Image Library v12.0.15\r\n{size} (64x64) JPEG/RGB Q=70|AppMag = 40|MPP = {mpp}"


CENTIMETRE = {"resolutionunit": "CENTIMETER"}


@pytest.mark.parametrize(
    ("description", "tags", "microns", "source"),
    [
        (aperio("128x128", 0.2533), {}, 0.2533, "its description"),
        (aperio("500x400 [10,20 128x128]", "0,2533"), {}, 0.2533, "its description"),
        (aperio("128x128", 0.25), {"resolution": (40000, 40000), **CENTIMETRE}, 0.25, "its description"),
        (aperio("128x128", 0.25), {"resolution": (72, 72), "resolutionunit": "INCH"}, 0.25, "its description"),
        ("Aperio Image Library v12|AppMag = 40", {"resolution": (20000, 20000), **CENTIMETRE}, 0.5, "its TIFF tags"),
        ("", {"resolution": (20000, 20000), **CENTIMETRE}, 0.5, "its TIFF tags"),
        ("", {"resolution": (101600, 101600), "resolutionunit": "INCH"}, 0.25, "its TIFF tags"),
        ("", {"resolution": (2, 2), "resolutionunit": "MICROMETER"}, 0.5, "its TIFF tags"),
    ],
)
def test_the_resolution_is_found_and_its_source_named(tmp_path, description, tags, microns, source):
    with Slide(write_svs(tmp_path / "a.svs", description, **tags)) as slide:
        assert slide.microns_per_pixel == pytest.approx(microns)
        assert slide.resolution_source == source
        assert str(slide) == f"128×128 px of {microns:g} µm ({source})"


def test_ome_xml_states_a_resolution(tmp_path):
    path = tmp_path / "a.ome.tif"
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": {"axes": "YXS", "PhysicalSizeX": 250.0}}
    options["metadata"] |= {"PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, PICTURE[:128, :128], ome=True, **options)
    with Slide(path) as slide:
        assert (slide.microns_per_pixel, slide.resolution_source) == (0.25, "its OME-XML")


@pytest.mark.parametrize(
    ("description", "tags", "words"),
    [
        ("", {"resolution": (40000, 40000), "resolutionunit": "NONE"}, "the file states no resolution"),
        ("", {"resolution": (0, 0), **CENTIMETRE}, "the file states no resolution"),
        (aperio("128x128", "unknown"), {}, "the file states no resolution"),
        (aperio("128x128", 0), {}, "the file states no resolution"),
        ("", {"resolution": (72, 72), "resolutionunit": "INCH"}, "a resolution of 352.778 µm/px (its TIFF tags)"),
        ("", {"resolution": (10, 10), **CENTIMETRE}, "states a resolution of 1000 µm/px"),  # libvips, where not told
        # halved by a tool that keeps the description
        (aperio("256x256", 0.25), {}, "its description states 0.25 µm/px, but of an image of 256×256 px, and the file"),
        (aperio("256x256 -> 128x128", 0.25), {}, "of an image of 256×256 px, and the file holds one of 128×128"),
        (
            aperio("128x128", 0.25),
            {"resolution": (20000, 20000), **CENTIMETRE},
            "0.25 µm/px according to its description, but 0.5 according to its TIFF tags",
        ),
    ],
)
def test_a_resolution_that_cannot_be_true_is_refused_until_one_is_given(tmp_path, description, tags, words):
    path = write_svs(tmp_path / "a.svs", description, **tags)
    message = fault(Slide, path)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert message.endswith("; give microns_per_pixel of its finest level (--microns-per-pixel on the command line)")
    with Slide(path, microns_per_pixel=0.5) as slide:
        assert slide.size_microns == (64, 64)
        assert slide.resolution_source == "as given"


@pytest.mark.parametrize(("second", "fits"), [(0, True), (0.5, True), (2, True), (2.1, True), (1, False), (4, False)])
def test_a_level_that_contradicts_the_finest_is_refused_until_one_is_given(tmp_path, second, fits):
    """Levels of 0.5 µm and of a quarter of its pixels, the second as stated, copied, rounded or wrong."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for level, microns in enumerate((0.5, second)):
            said = {"resolution": (1e4 / microns,) * 2, **CENTIMETRE} if microns else {}
            picture = PICTURE[: 512 // 4**level, : 512 // 4**level]
            file.write(picture, tile=(64, 64), photometric="rgb", subfiletype=level, metadata=None, **said)
    if not fits:
        message = fault(Slide, path)
        assert f"level 1 states {second} µm/px, but it is 4 times coarser than level 0 of 0.5 µm/px; give" in message
    with Slide(path, microns_per_pixel=None if fits else 0.5) as slide:
        assert (slide.microns_per_pixel, len(slide.n_tiles)) == (0.5, 2)


def test_a_given_resolution_overrides_what_the_file_states_and_says_so(tmp_path):
    path = write_svs(tmp_path / "a.svs", aperio("128x128", 0.5))
    with pytest.warns(UserWarning, match="its description states 0.5 µm/px; read as 0.25, as given"):
        slide = Slide(path, microns_per_pixel=0.25)
    with slide:
        assert slide.size_microns == (32, 32)
    with Slide(path, microns_per_pixel=0.5) as slide:  # no warning: those are errors here
        assert slide.size_microns == (64, 64)
    path = write_svs(tmp_path / "b.svs", "", resolution=(40000, 20000), **CENTIMETRE)
    assert "pixels of 0.25×0.5 µm; expected square ones" in fault(Slide, path)
    with pytest.warns(UserWarning, match="read as square ones of 0.25 µm, as given"):
        Slide(path, microns_per_pixel=0.25).__exit__()
    for wrong in (0, -0.25, float("nan")):
        assert "it must be greater than 0" in fault(Slide, path, microns_per_pixel=wrong, error=ValueError)


def test_a_resolution_as_text_is_refused_in_one_sentence(tmp_path, unchecked):
    path = write_svs(tmp_path / "a.svs", aperio("128x128", 0.5))
    message = fault(Slide, path, microns_per_pixel="0.5", error=ValueError)
    assert message == "microns_per_pixel='0.5'; it must be greater than 0, a number of microns"


# ------------------------------------------------------------------------------------------ colours

# 32 px of four colours, as YCbCr with the chroma halved across, and across and down. By OpenJPEG 2.5:
# opj_compress -mct 0 -n 2 -F 32,32,3,8,u@1x1:2x1:2x1
CORNERS = [(200, 120, 180), (245, 245, 245), (120, 60, 160), (60, 140, 90)]
HALVED_ACROSS = """
/0//UQAvAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAADBwEBBwIBBwIB/1IADAAAAAEAAQQEAAH/XAAHQEBISFD/ZAAlAAFDcmVhdGVkIG
J5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAAAAGCAAH/k9+FDoUwp6d1FAKhxb8zvhGNPonBQOEhLU0vhCwZHtq/V56oR33dW5mMRAMJCJNX749s
w5wPngirg7pDORzc7yAfbrBS7B9n5f0NsH0sPkCxEEpntPQZx7iqaI+5TRH3KaI+hSz8reEdf0WCRx4YKHOSnCPoUwR9ymiPoUs/K3tV+FIYRU1SP0U4R8
fUdmTBCp1/6zszn252MbYsXd3QG11fm5GAqUC5iG+U+9myTZECh5iAFAJLWQA6ac+T8ZML/0FYMtUfDeV/x9R0FABKdsS7ZmSN3v7ug8K9jFLRgAA3AKGP
Yky70WQbJhTVMJPto0ezZdRsg1agULskc0vaGyWbD6cYf8PqDI+0SgfOEDXyN5xJBx7nY4XYn4QgJcHYdEd6YiB/AcYPZgW81YL/O93B842B8giA+QGAdC
nqiSK0tenXbtTmBz5hVCXDZiJfTeVjwfONg+cTAPhDIhoStz4kqEh2JRIPf1IpHi4/NYHpX03lW//Z
"""
HALVED_BOTH_WAYS = """
/0//UQAvAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAADBwEBBwICBwIC/1IADAAAAAEAAQQEAAH/XAAHQEBISFD/ZAAlAAFDcmVhdGVkIG
J5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAAAAFOAAH/k9+FDoUwp6d1FAKhxb8zvhGNPonBQOEhLU0vhCwZHtq/V56oR33dW5mMRAMJCJNX749s
w5wPngirg7pDORzc7yAfbrBS7B9n5f0NsH0sPkCxEEpntPQZx7iqaI+5TRH3KaI+hSz8reEdf0WCRx4YKHOSnCPoUwR9ymiPoUs/K3tV+FIYRU1SP0U4R8
fUSju5Cn8mpV6z/JiQSJQ1GxwxSKBiYFCHRU1iPiPEC6tHEOEcrBvH1EwUAEoMt79QojaL/m4KsYAcNJf8KiPMLpSF4ChBgm5p2RHLApMln8PqDI+0SgfO
EDXyN5xJBx7nY4XYn4QgJcHYdEd6YiB/AcYPZgW81YL/O93B84mB8geA+QGASyBQi7msx0BfAMrTD79j3yTdYcHziIPnEwD4QyIaDATddnuPKSDwQ7c+Fv
9/JN1P/9k=
"""


def quarters(mode="RGB"):
    picture = np.kron(np.array(CORNERS).reshape(2, 2, 3), np.ones((16, 16, 1))).astype(np.uint8)
    return np.asarray(Image.fromarray(picture).convert(mode))


def codestream(pixels, **options):
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True, **{"mct": False, **options})


def write_levels(path, *levels):
    """An Aperio slide of 64 px, and of 32 px: ``levels`` are the bytes or the pixels of its tiles, and their code."""
    with tifffile.TiffWriter(path) as file:
        for row, (tile, compression) in enumerate(levels):
            n, side = (4, 64) if row == 0 else (1, 32)
            options = {"tile": (32, 32), "photometric": "rgb", "metadata": None, "compression": compression}
            options["description"] = aperio("64x64", 0.5)
            if row == 1:  # after the thumbnail, where Aperio has it
                file.write(np.zeros((16, 16, 3), np.uint8), photometric="rgb", metadata=None)
            file.write((tile for _ in range(n)), shape=(side, side, 3), dtype="uint8", **options)
    return path


def corners(picture):
    n = len(picture) // 2
    return [picture[row + n // 2, column + n // 2].astype(int) for row in (0, n) for column in (0, n)]


YCBCR = {
    "full chroma": codestream(quarters("YCbCr")),
    "chroma halved across": base64.b64decode(HALVED_ACROSS),
    "chroma halved both ways": base64.b64decode(HALVED_BOTH_WAYS),
}


@pytest.mark.parametrize("chroma", YCBCR)
def test_colours_of_aperios_jpeg_2000_are_true_on_every_level(tmp_path, chroma):
    """Within what rounding to YCbCr costs; each level may be stored in another way."""
    other = {"full chroma": (quarters(), "jpeg"), "chroma halved across": (codestream(quarters()), 33005)}
    second = other.get(chroma, (YCBCR["full chroma"], 33003))
    path = write_levels(tmp_path / "a.svs", (YCBCR[chroma], 33003), second)
    with Slide(path) as slide:
        assert len(slide.n_tiles) == 2
        fine, coarse = slide.read(0, 0, (32, 32), 0.5), slide.read(0, 0, (32, 32), 1.0)
    assert np.abs(np.array(corners(fine)) - CORNERS).max() <= 2
    assert np.abs(fine[:14, 18:].astype(int) - 245).max() <= 1  # glass, off the seam of the halved chroma
    assert np.abs(np.array(corners(coarse)) - CORNERS).max() <= (4 if second[1] == "jpeg" else 2)


def test_the_glass_of_a_slide_in_ycbcr_is_no_tissue(tmp_path):
    """Taken for RGB, it is pink. Every tile of this slide has glass in a corner."""
    with Slide(write_levels(tmp_path / "a.svs", (YCBCR["full chroma"], 33003))) as slide:
        tissue = find_tissue(slide, cell_microns=8.0, leave_out_pen=False)
    assert tissue.cells.tolist() == np.tile([[True, False], [True, True]], (2, 2)).tolist()


def test_the_chroma_of_generic_jpeg_2000_follows_the_photometric_interpretation(tmp_path):
    for photometric, mode in (("rgb", "RGB"), ("ycbcr", "YCbCr")):
        path = tmp_path / f"{photometric}.tif"
        tifffile.imwrite(
            path,
            (codestream(quarters(mode)) for _ in range(1)),
            shape=(32, 32, 3),
            dtype="uint8",
            tile=(32, 32),
            compression=34712,
            photometric=photometric,
            resolution=(20000, 20000),
            resolutionunit="CENTIMETER",
        )
        with Slide(path) as slide:
            assert np.abs(np.array(corners(slide.read(0, 0, (32, 32), 0.5))) - CORNERS).max() <= 2


def test_colours_that_cannot_be_known_are_refused_when_the_slide_is_opened(tmp_path):
    transformed = write_levels(tmp_path / "a.svs", (codestream(quarters(), mct=True), 33003))
    assert fault(Slide, transformed) == (
        f"{transformed}: compression 33003 says YCbCr, but its JPEG 2000 transforms RGB itself: the colours are in "
        "doubt; convert the slide to compression 33005 or JPEG"
    )
    nonsense = write_levels(tmp_path / "b.svs", (b"no codestream", 33003))
    assert "its first tile is no JPEG 2000 codestream" in fault(Slide, nonsense)
    cut = write_levels(tmp_path / "c.svs", (YCBCR["full chroma"][:20], 33003))
    assert "the header of its first JPEG 2000 tile ends early" in fault(Slide, cut)
    odd = bytearray(YCBCR["full chroma"])
    odd[46] = odd[49] = 4  # XRsiz of the chroma: ISO/IEC 15444-1, A.5.1
    path = write_levels(tmp_path / "d.svs", (bytes(odd), 33003))
    assert "JPEG 2000 are sampled by ((1, 1), (4, 1), (4, 1)); expected (1, 1) for luma" in fault(Slide, path)
    grey = write_levels(tmp_path / "e.svs", (codestream(quarters("L")), 33003))
    assert "JPEG 2000 are sampled by ((1, 1),); expected" in fault(Slide, grey)
    for photometric, channels in (("separated", 4), ("cielab", 3), ("ycbcr", 3)):
        path = tmp_path / f"{photometric}.tif"
        pixels = np.full((64, 64, channels), 200, np.uint8)
        options = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "compression": "deflate"}
        tifffile.imwrite(path, pixels, tile=(64, 64), photometric=photometric, **options)
        message = fault(Slide, path)
        assert message.startswith(f"{path}: its colours are {photometric.upper()}, compressed as ")
        assert message.endswith("DEFLATE; expected RGB, or YCbCr in JPEG or JPEG 2000")


@pytest.mark.slow
def test_real_slides_of_both_compressions_show_their_tissue(staged_data):
    folder = staged_data / "slides_real"
    with Slide(folder / "CMU-1-Small-Region.svs") as slide:
        tissue = find_tissue(slide)
        assert (slide.microns_per_pixel, slide.resolution_source) == (0.499, "its description")
    assert tissue.glass == pytest.approx((246, 244, 244), abs=2)
    assert 0.38 < tissue.shares["tissue"] < 0.46  # by eye
    path = folder / "tcga-cr-7395-01a-01-ts1.svs"
    assert "states no resolution" in fault(Slide, path)
    with Slide(path, microns_per_pixel=0.25) as slide:
        tissue = find_tissue(slide)
    assert tissue.glass == pytest.approx((241, 237, 240), abs=2)  # not the white around the scanned area
    assert 0.64 < tissue.shares["tissue"] < 0.72


# ------------------------------------------------------------------------------------------ tiles left out


def test_ground_that_was_not_scanned_is_an_error_or_filled_and_never_black(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", PICTURE, left_out={0: [(2, 3)]})  # 192 to 256 µm, 128 to 192 µm
    with Slide(path) as slide:
        assert slide.n_tiles == (N_TILES,)
        assert slide.n_tiles_left_out == (1,)
        assert str(slide) == f"512×512 px of 1 µm (its TIFF tags), tiles left out: 1 of {N_TILES} on level 0"
        message = fault(slide.read, 180, 100, (32, 32), 1.0)
        assert message.startswith(f"{path}: a rectangle of 32×32 px of 1 µm at (180, 100) µm touches ground that was")
        assert f"(tiles left out: 1 of {N_TILES} on level 0)" in message
        for x, y in ((160, 128), (256, 128), (192, 96), (192, 192), (160, 96)):  # right beside it
            assert (slide.read(x, y, (32, 32), 1.0) == PICTURE[y : y + 32, x : x + 32]).all()
            assert slide.holds(x, y, 32, 32)
            assert not slide.holds(x + (1 if x < 192 else -1 if x == 256 else 0), y + (y == 96) - (y == 192), 32, 32)
        filled = slide.read(180, 100, (64, 64), 1.0, fill=255)
        expected = PICTURE[100:164, 180:244].copy()
        expected[28:, 12:] = 255
        assert (filled == expected).all()


@pytest.mark.parametrize("microns", [1.0, 2.0, 4.0, 6.6])
def test_what_one_level_lacks_is_read_from_a_finer_one(tmp_path, microns):
    path = write_pyramid(tmp_path / "a.tif", PICTURE, factors=(1, 2, 4), left_out={1: [(1, 1)], 2: [(0, 0), (1, 1)]})
    with Slide(path) as slide:
        assert slide.n_tiles_left_out == (0, 1, 2)
        for x, y in ((0, 0), (130, 150), (200, 90), (300, 300)):
            n = int(100 / microns)
            patch = slide.read(x, y, (n, n), microns).astype(int)
            assert np.abs(patch - reduced(x, y, n, microns)).mean() < 2
        assert find_tissue(slide).cells.all()


@pytest.mark.parametrize("microns", [1.0, 2.0, 4.0, 6.6])
def test_what_the_finest_level_lacks_was_not_scanned_whatever_coarser_ones_show(tmp_path, microns):
    path = write_pyramid(tmp_path / "a.tif", PICTURE, factors=(1, 2, 4), left_out={0: [(2, 3)]})
    with Slide(path) as slide:
        n = int(40 / microns)
        assert "touches ground that was not scanned" in fault(slide.read, 170, 110, (n, n), microns)
        beside = slide.read(192 - n * microns, 110, (n, n), microns).astype(int)
        assert np.abs(beside - reduced(192 - n * microns, 110, n, microns)).mean() < 4
        tissue = find_tissue(slide)
    assert not tissue.cells[4:6, 6:8].any()
    assert tissue.shares == {"tissue": 1 - 1 / 64, "left out": 1 / 64}


LEFT_OUT = [(2, 3), (3, 3), (5, 1)]
SQUARE = as_polygon("SCC", [(150, 100), (350, 100), (350, 300), (150, 300)])


def touches(x, y, side):
    """Whether a patch touches one of the tiles left out."""
    return any(
        x < TILE * (column + 1) and TILE * column < x + side and y < TILE * (row + 1) and TILE * row < y + side
        for row, column in LEFT_OUT
    )


@pytest.mark.slow
def test_patches_are_cut_on_scanned_ground_alone_annotated_or_not(tmp_path):
    area = disc((512, 512), 250, 250, 200)
    picture = np.where(area[..., None], PICTURE, 245).astype(np.uint8)
    (tmp_path / "whole").mkdir()
    path = write_pyramid(tmp_path / "SCC_01_1.tif", picture, factors=(1, 4), left_out={0: LEFT_OUT, 1: [(0, 0)]})
    whole_path = write_pyramid(tmp_path / "whole" / "SCC_01_1.tif", picture, factors=(1, 4))
    with Slide(path) as slide, Slide(whole_path) as whole:
        for options in ({"tissue": find_tissue(slide)}, {"polygons": [SQUARE], "class_index": {"SCC": 1}}):
            positions = sample_positions(slide, 100, 16, 4.0, 0, **options)
            assert sample_positions(slide, 7, 16, 4.0, 0, **options) == positions[:7]
            assert len(set(positions)) > 80
            assert not any(touches(x, y, 64) for x, y, _ in positions)
            # only those that would touch are drawn again
            same = 0
            for position, there in zip(positions, sample_positions(whole, 100, 16, 4.0, 0, **options), strict=True):
                assert (position == there) != touches(there.x_microns, there.y_microns, 64)
                same += position == there
            assert 20 < same < 95
        patches = list(sample_patches(slide, 20, 16, 4.0, 0, [SQUARE], {"SCC": 1}))
        assert min(np.asarray(patch["image"]).min() for patch in patches) > 60


@pytest.mark.slow
def test_a_slide_without_room_for_a_patch_on_scanned_ground_says_how_many_places_were_tried(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", PICTURE, left_out={0: LEFT_OUT})
    inside = as_polygon("SCC", [(200, 140), (250, 140), (250, 240), (200, 240)])
    with Slide(path) as slide:
        message = fault(sample_positions, slide, 1, 8, 1.0, 0, [inside], {"SCC": 1})
        assert message.startswith(f"{path}: none of its 1 polygons shows a class to sample; a patch at each of 16368 ")
        assert f"not scanned (tiles left out: 3 of {N_TILES} on level 0); choose smaller patches or leave" in message
        message = fault(sample_positions, slide, 1, 400, 1.0, 0, tissue=find_tissue(slide))
        assert message.startswith(f"{path}: no patch to be had on its tissue; a patch at each of 1000 places tried ")
        # another class, on scanned ground, steps in
        beside = as_polygon("Dermis", [(300, 300), (400, 300), (400, 400), (300, 400)])
        positions = sample_positions(slide, 10, 8, 1.0, 0, [inside, beside], {"SCC": 1, "Dermis": 2})
        assert {position.class_index for position in positions} == {2}


def test_rectangles_are_held_as_by_a_mask_of_all_pixels(tmp_path):
    generator = np.random.default_rng(1)
    picture = PICTURE[:300, :420]  # the last tiles stick out
    grid = (-(-300 // TILE), -(-420 // TILE))
    lacking = [(row, column) for row in range(grid[0]) for column in range(grid[1]) if generator.random() < 0.1]
    path = write_pyramid(tmp_path / "a.tif", picture, left_out={0: lacking})
    scanned = np.ones((300, 420), bool)
    for row, column in lacking:
        scanned[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = False
    with Slide(path) as slide:
        assert slide.n_tiles_left_out == (len(lacking),)
        answers = set()
        for _ in range(500):
            width, height = generator.integers(1, 120, 2).tolist()
            x, y = generator.integers(0, (420 - width, 300 - height)).tolist()
            held = bool(scanned[y : y + height, x : x + width].all())
            assert bool(slide.holds(x, y, width, height)) == held
            answers.add(held)
        assert answers == {True, False}
        every_pixel = slide.holds(np.arange(420), np.arange(300)[:, None], 1, 1)
        assert (every_pixel == scanned).all()


def test_strips_that_a_file_lacks_are_not_scanned_either(tmp_path):
    path = tmp_path / "a.tif"
    options = {"rowsperstrip": 64, "compression": "deflate", "resolution": (10000, 10000), **CENTIMETRE}
    tifffile.imwrite(path, PICTURE, photometric="rgb", **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("StripOffsets", "StripByteCounts"):
            values = list(file.pages[0].tags[name].value)
            values[2] = 0
            file.pages[0].tags[name].overwrite(values)
    with Slide(path) as slide:
        assert (slide.n_tiles, slide.n_tiles_left_out) == ((8,), (1,))
        assert "not scanned" in fault(slide.read, 0, 100, (64, 64), 1.0)
        assert (slide.read(0, 192, (64, 64), 1.0) == PICTURE[192:256, :64]).all()


def test_a_file_of_one_piece_is_whole(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, photometric="rgb", resolution=(10000, 10000), **CENTIMETRE)
    with Slide(tmp_path / "a.tif") as slide:
        assert sum(slide.n_tiles_left_out) == 0
        assert (slide.read(0, 0, (512, 512), 1.0) == PICTURE).all()


def test_ground_between_the_scanned_regions_of_a_slide_is_not_scanned(tmp_path):
    regions = [PICTURE[:256, :256], PICTURE[:128, :256]]
    path = write_scn(tmp_path / "a.scn", regions, corners=[(100, 60), (500, 640)], size=(1024, 900))
    with Slide(path) as slide:
        assert slide.size == (1024, 900)
        assert (slide.read(120, 100, (64, 64), 1.0) == PICTURE[40:104, 20:84]).all()
        assert (slide.read(500, 640, (128, 256), 1.0) == PICTURE[:128, :256]).all()
        for x, y in ((60, 100), (400, 400), (500, 620), (740, 700)):
            assert "not scanned" in fault(slide.read, x, y, (32, 32), 1.0)
        tissue = find_tissue(slide, min_area_mm2=0.0)
        scanned = (256 * 256 + 128 * 256) / (1024 * 900)
        assert tissue.shares["tissue"] == pytest.approx(scanned, abs=0.02)
        assert tissue.shares["tissue"] + tissue.shares["left out"] == pytest.approx(1)
        for x, y, _ in sample_positions(slide, 50, 8, 4.0, 0, tissue=tissue):
            assert slide.read(x, y, (8, 8), 4.0).min() > 60


def test_a_slide_without_any_tile_of_the_finest_level_has_no_tissue(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", PICTURE, factors=(1, 4))
    leave_out(path, {0: [(row, column) for row in range(8) for column in range(8)]})
    with Slide(path) as slide:
        message = fault(sample_positions, slide, 1, 16, 1.0, 0, tissue=find_tissue(slide))
    assert "no tissue found and no annotation to sample from (100.0 % left out)" in message
