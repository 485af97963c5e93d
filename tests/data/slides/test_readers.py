"""Each reader hands out the pixels that its file holds: TIFF with planes apart, DICOM, and openslide on its grid."""

import io

import numpy as np
import pydicom
import pytest
import tifffile
from drawn_slides import TILE, halved, write_pyramid
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from sedm.data.patch_table import PatchTableError
from sedm.data.slides import slide_files
from sedm.data.slides.annotations import read_polygons
from sedm.data.slides.dicom_image import WHOLE_SLIDE
from sedm.data.slides.openslide_pyramid import OpenSlidePyramid
from sedm.data.slides.slide import Slide
from sedm.data.slides.slide_files import find_slides

NOISE = np.random.default_rng(0).integers(0, 256, (512, 640, 3), np.uint8)


def fault(call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(PatchTableError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ real slides


def test_planes_apart_are_read_as_colours(staged_data):
    path = staged_data / "slides_real" / "qupath_cells.ome.tif"
    planes = tifffile.imread(path)
    assert planes.shape == (3, 131, 93)
    with Slide(path) as slide:
        assert (slide.size, slide.microns_per_pixel, slide.resolution_source) == ((93, 131), 0.25, "its OME-XML")
        assert (slide.read(0, 0, (131, 93), 0.25) == planes.transpose(1, 2, 0)).all()
        assert (slide.read(5.0, 10.0, (40, 30), 0.25) == planes.transpose(1, 2, 0)[40:80, 20:50]).all()


def test_a_pyramid_of_planes_apart_is_read_level_by_level(tmp_path):
    path = tmp_path / "a.tif"
    said = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        for level, factor in enumerate((1, 4)):
            planes = halved(NOISE, factor).transpose(2, 0, 1)
            options = {"photometric": "rgb", "planarconfig": "separate", "tile": (TILE, TILE), "subfiletype": level}
            file.write(planes, **options, **said)
    with Slide(path) as slide:
        assert slide.size == (640, 512)
        assert (slide.read(0, 0, (512, 640), 0.5) == NOISE).all()
        assert (slide.read(0, 0, (128, 160), 2.0) == halved(NOISE, 4)).all()


@pytest.mark.parametrize(("name", "limit"), [("CMU-1-Small-Region.svs", 1), ("tcga-cr-7395-01a-01-ts1.svs", 2)])
def test_aperio_slides_show_what_tifffile_and_openslide_decode(staged_data, name, limit):
    path = staged_data / "slides_real" / name
    openslide = pytest.importorskip("openslide")
    with Slide(path, microns_per_pixel=0.499) as slide, openslide.OpenSlide(path) as other:
        assert slide.size == other.dimensions
        x, y = slide.size[0] // 2 - 33, slide.size[1] // 2 - 21
        pixels = slide.read(x * 0.499, y * 0.499, (200, 300), 0.499).astype(int)
        assert (pixels == tifffile.imread(path, series=0, level=0)[y : y + 200, x : x + 300]).all()
        seen = np.asarray(other.read_region((x, y), 0, (300, 200)))[..., :3]
    assert pixels.std() > 10
    assert np.abs(pixels - seen).max() <= limit


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_real_dicom_slide_without_places_is_put_together_along_its_seams(staged_data):
    """Frames by pydicom, put together by hand: column by column, whatever the standard's default is."""
    path = staged_data / "slides_real" / "small_dicom.dcm"
    assert "the file states no resolution" in fault(Slide, path)
    frames = pydicom.dcmread(path).pixel_array
    columns = [np.concatenate(frames[6 * column : 6 * column + 6]) for column in range(7)]
    picture = np.concatenate(columns, axis=1)[:2638, :3236].astype(int)
    across = np.abs(np.diff(picture, axis=1)).mean((0, 2))
    assert across[499::500].max() < 2 * across.mean()  # no column of pixels beside a seam stands out
    with pytest.warns(UserWarning, match="does not say where its frames lie; read column by column"):
        slide = Slide(path, microns_per_pixel=1.0)
    with slide:
        assert (slide.size, slide.n_tiles, slide.n_tiles_left_out) == ((3236, 2638), (42,), (0,))
        assert (slide.read(0, 0, (2638, 3236), 1.0) == picture).all()
        assert (slide.read(480, 970, (100, 700), 1.0) == picture[970:1070, 480:1180]).all()


# ------------------------------------------------------------------------------------------ DICOM


def write_dicom(path, picture, series, kinds="VOLUME", microns=1.0, syntax=ExplicitVRLittleEndian, **changes):
    """One file of a slide in tiles; ``changes``: their ``order``, those ``left_out``, whether it states ``places``."""
    height, width = picture.shape[:2]
    n_rows, n_columns = -(-height // TILE), -(-width // TILE)
    padded = np.zeros((n_rows * TILE, n_columns * TILE, 3), np.uint8)
    padded[:height, :width] = picture
    order = changes.get("order") or [(row, column) for row in range(n_rows) for column in range(n_columns)]
    order = [place for place in order if place not in changes.get("left_out", ())]
    tiles = [padded[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] for row, column in order]
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = WHOLE_SLIDE
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.SeriesInstanceUID = series
    file.ImageType = ["ORIGINAL", "PRIMARY", kinds, "NONE"]
    file.Rows = file.Columns = TILE
    file.TotalPixelMatrixRows, file.TotalPixelMatrixColumns = height, width
    file.NumberOfFrames = len(tiles)
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit = 3, 8, 8, 7
    file.PixelRepresentation, file.PlanarConfiguration = 0, 0
    file.PhotometricInterpretation = "RGB"
    if microns:
        shared, measures = Dataset(), Dataset()
        measures.PixelSpacing = [microns / 1000, microns / 1000]
        shared.PixelMeasuresSequence = [measures]
        file.SharedFunctionalGroupsSequence = [shared]
    if changes.get("places") == "each":
        file.DimensionOrganizationType = "TILED_SPARSE"
        groups = []
        for row, column in order:
            group, place = Dataset(), Dataset()
            place.RowPositionInTotalImagePixelMatrix = row * TILE + 1 + changes.get("shift", 0)
            place.ColumnPositionInTotalImagePixelMatrix = column * TILE + 1
            group.PlanePositionSlideSequence = [place]
            groups.append(group)
        file.PerFrameFunctionalGroupsSequence = groups
    elif changes.get("places") != "none":
        file.DimensionOrganizationType = "TILED_FULL"
    if syntax.is_encapsulated:
        coded = []
        for tile in tiles:
            buffer = io.BytesIO()
            Image.fromarray(tile).save(buffer, "JPEG", quality=95, subsampling=0)
            coded.append(buffer.getvalue())
        file.PhotometricInterpretation = "YBR_FULL"
        file.PixelData = encapsulate(coded, fragments_per_frame=changes.get("fragments", 1), has_bot=True)
        file["PixelData"].VR = "OB"
    else:
        file.PixelData = b"".join(tile.tobytes() for tile in tiles)
    file.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def dicom_folder(tmp_path):
    """Three levels, each a third of the last, and the label, in one folder."""
    folder = tmp_path / "slide"
    folder.mkdir()
    series = generate_uid()
    for level, factor in enumerate((1, 3, 9)):
        write_dicom(folder / f"{9 - level}.dcm", halved(NOISE, factor), series, microns=0.5 * factor)
    write_dicom(folder / "0.dcm", NOISE[:TILE, :TILE], series, kinds="LABEL")
    return folder


@pytest.mark.parametrize("name", ["", "0.dcm", "7.dcm"])
def test_each_file_and_the_folder_of_a_dicom_slide_are_the_whole_slide(dicom_folder, name):
    with Slide(dicom_folder / name) as slide:
        assert (slide.size, slide.microns_per_pixel, slide.resolution_source) == ((640, 512), 0.5, "its DICOM header")
        assert slide.n_tiles == (80, 12, 2)
        assert (slide.read(0, 0, (512, 640), 0.5) == NOISE).all()
        assert (slide.read(25, 30, (150, 200), 0.5) == NOISE[60:210, 50:250]).all()
        coarse = halved(NOISE, 3)
        assert slide._pyramid.level_sizes == [(640, 512), (213, 170), (71, 56)]
        assert (slide._pyramid.read(1, (10, 50, 140, 170)) == coarse[50:170, 10:140]).all()


def test_a_dicom_slide_is_one_slide_of_its_folder(dicom_folder):
    write_pyramid(dicom_folder.parent / "a.tif", NOISE)
    assert find_slides(dicom_folder.parent) == [dicom_folder.parent / "a.tif", dicom_folder]
    assert find_slides(dicom_folder) == [dicom_folder / "0.dcm"]
    write_dicom(dicom_folder / "other.dcm", NOISE, generate_uid())
    assert [path.name for path in find_slides(dicom_folder.parent)] == ["a.tif", "0.dcm", "other.dcm"]
    assert fault(Slide, dicom_folder) == f"{dicom_folder}: 2 DICOM slides in this folder; name a file of one"
    (dicom_folder.parent / "empty").mkdir()
    assert "no slides in it; expected files that end in .svs" in fault(find_slides, dicom_folder.parent / "empty")


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, ImplicitVRLittleEndian])
def test_frames_are_decoded_from_one_or_several_pieces(tmp_path, syntax, fragments):
    smooth = np.asarray(Image.fromarray(NOISE[:8, :10]).resize((640, 512), Image.Resampling.BICUBIC))
    path = write_dicom(tmp_path / "a.dcm", smooth, generate_uid(), syntax=syntax, fragments=fragments)
    with Slide(path) as slide:
        difference = np.abs(slide.read(0, 0, (512, 640), 1.0).astype(int) - smooth)
    assert difference.max() <= (12 if syntax.is_encapsulated else 0)
    assert difference.mean() < 1


def test_stated_places_are_followed_and_missing_tiles_are_not_scanned(tmp_path):
    order = [(row, column) for column in range(10) for row in range(8)][::-1]
    options = {"order": order, "places": "each", "left_out": [(2, 3)]}
    path = write_dicom(tmp_path / "a.dcm", NOISE, generate_uid(), **options)
    with Slide(path) as slide:
        assert slide.n_tiles_left_out == (1,)
        assert (slide.read(0, 0, (128, 640), 1.0) == NOISE[:128]).all()
        assert "touches ground that was not scanned" in fault(slide.read, 180, 100, (64, 64), 1.0)
        assert (slide.read(192, 128, (64, 64), 1.0, fill=7) == 7).all()


@pytest.mark.parametrize("by_column", [False, True])
def test_frames_without_places_lie_as_their_seams_fit(tmp_path, by_column, recwarn):
    smooth = np.asarray(Image.fromarray(NOISE[:8, :10]).resize((640, 512), Image.Resampling.BICUBIC))
    order = [(row, column) for column in range(10) for row in range(8)] if by_column else None
    path = write_dicom(tmp_path / "a.dcm", smooth, generate_uid(), places="none", order=order)
    with Slide(path) as slide:
        assert (slide.read(0, 0, (512, 640), 1.0) == smooth).all()
    assert len(recwarn) == by_column


def test_faults_of_dicom_slides_are_named(tmp_path, dicom_folder):
    label = write_dicom(tmp_path / "label.dcm", NOISE[:TILE, :TILE], generate_uid(), kinds="LABEL")
    assert "no image of a slide in this DICOM series; is it the label or the overview?" in fault(Slide, label)
    write_dicom(dicom_folder / "again.dcm", NOISE, pydicom.dcmread(label).SeriesInstanceUID)
    twice = generate_uid()
    paths = [write_dicom(tmp_path / name, NOISE, twice) for name in ("a.dcm", "b.dcm")]
    assert "2 images of 640×512 px in one series, over each other; expected one focal plane" in fault(Slide, paths[0])
    shifted = write_dicom(tmp_path / "c.dcm", NOISE, generate_uid(), places="each", shift=5)
    assert "c.dcm: frame 1 at (0, 5) px is off the grid of its tiles" in fault(Slide, shifted)
    few = write_dicom(tmp_path / "d.dcm", NOISE, generate_uid(), left_out=[(0, 0)])
    assert "d.dcm: 79 frames for 8×10 tiles, and no places of theirs" in fault(Slide, few)
    cut = write_dicom(tmp_path / "e.dcm", NOISE, generate_uid(), syntax=JPEGBaseline8Bit)
    cut.write_bytes(cut.read_bytes()[:20_000])
    assert "frames, but its header promises 80" in fault(Slide, cut)
    (tmp_path / "f.dcm").write_bytes(bytes(128) + b"DICM" + bytes(50))
    assert "f.dcm: " in fault(Slide, tmp_path / "f.dcm")


# ------------------------------------------------------------------------------------------ openslide


@pytest.fixture
def by_openslide(monkeypatch):
    """Slides that tiffslide does not read."""
    pytest.importorskip("openslide")

    def refuse(path):
        raise NotImplementedError("a format of its own")

    monkeypatch.setattr(slide_files, "TiffPyramid", refuse)


def test_openslide_reads_whole_pixels_of_each_level_that_its_grid_meets(tmp_path, by_openslide):
    path = write_pyramid(tmp_path / "a.tif", NOISE, microns=0.5, factors=(1, 4, 16), compression=None)
    with Slide(path) as slide:
        assert isinstance(slide._pyramid, OpenSlidePyramid)
        assert (slide.size, slide.microns_per_pixel, slide.resolution_source) == ((640, 512), 0.5, "openslide")
        for level, factor in enumerate((1, 4, 16)):
            stored = halved(NOISE, factor)
            assert (slide._pyramid.read(level, (3, 5, 36, 32)) == stored[5:32, 3:36]).all()
        assert (slide.read(13.5, 3.5, (60, 50), 0.5) == NOISE[7:67, 27:77]).all()


def test_a_level_off_the_grid_is_passed_over_for_the_finer_one(tmp_path, by_openslide):
    """Halves of an odd side: 2.004 pixels to one, so that openslide blends; level 0 is read and reduced instead."""
    picture = NOISE[:511, :639]
    path = write_pyramid(tmp_path / "a.tif", picture, microns=0.5, factors=(1, 2), compression=None)
    openslide = pytest.importorskip("openslide")
    with Slide(path) as slide, openslide.OpenSlide(path) as file:
        assert file.level_count == 2
        assert file.level_downsamples[1] == pytest.approx(2.0035, abs=1e-3)
        assert slide._pyramid.level_sizes == [(639, 511)]
        blended = np.asarray(file.read_region((402, 302), 1, (64, 64)))[..., :3]
        assert blended.std() < 0.95 * halved(picture, 2)[151:215, 201:265].std()  # what would have been read
        box = (402, 302, 402 + 128, 302 + 128)
        whole = Image.fromarray(picture).resize((64, 64), Image.Resampling.LANCZOS, box)
        assert np.abs(slide.read(201, 151, (64, 64), 1.0).astype(int) - np.asarray(whole)).max() <= 1


def test_transparent_ground_is_not_scanned(tmp_path, by_openslide):
    path = write_pyramid(tmp_path / "a.tif", NOISE, left_out={0: [(2, 3)]}, compression=None)
    with Slide(path) as slide:
        held = slide.holds(np.arange(640), np.arange(512)[:, None], 1, 1)
        expected = np.ones((512, 640), bool)
        expected[2 * TILE : 3 * TILE, 3 * TILE : 4 * TILE] = False
        assert (held == expected).all()
        assert "touches ground that was not scanned" in fault(slide.read, 180, 100, (64, 64), 1.0)


def test_a_file_that_no_reader_opens_names_what_each_says(tmp_path):
    (tmp_path / "a.mrxs").write_bytes(b"not a slide")
    message = fault(Slide, tmp_path / "a.mrxs")
    assert message.startswith(f"{tmp_path / 'a.mrxs'}: not a readable slide (TiffFileError: not a TIFF file")
    assert "OpenSlideUnsupportedFormatError" in message or "openslide reads more: pip install" in message


# ------------------------------------------------------------------------------------------ Hamamatsu


def write_ndpi(path, picture, offset=(4_000_000, -250_000), nanometres=500):
    """A TIFF with the tags by which NDPI says where on its glass the scan lies."""
    tags = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True)]
    tags += [(code, "i", 1, value, True) for code, value in zip((65422, 65423), offset, strict=True)]
    resolution = {"resolution": (1e7 / nanometres,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture, photometric="rgb", tile=(TILE, TILE), metadata=None, extratags=tags, **resolution)
    return path


def view(title, kind, content, unit="nanometers"):
    return (
        f'<ndpviewstate id="1"><title>{title}</title><details/><coordformat>{unit}</coordformat><lens>10</lens>'
        f'<annotation type="{kind}" displayname="Annotate" color="#00ff00">{content}</annotation></ndpviewstate>'
    )


def freehand(corners, closed=1):
    points = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in corners)
    return f"<measuretype>0</measuretype><closed>{closed}</closed><pointlist>{points}</pointlist>"


def write_ndpa(folder, *views):
    path = folder / "a.ndpi.ndpa"
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?><annotations>{"".join(views)}</annotations>')
    return path


def test_nanometres_from_the_centre_of_the_glass_become_pixels(tmp_path):
    """By hand: the scan of 640×512 px of 500 nm has its centre at (4, −0.25) mm, so its corner at (3.84, −0.378)."""
    square = [(3_845_000, -368_000), (3_865_000, -368_000), (3_865_000, -348_000), (3_845_000, -348_000)]
    circle = "<x>4000000</x><y>-250000</y><radius>-20000</radius>"
    path = write_ndpa(
        tmp_path,
        view("Tumor", "freehand", freehand(square)),
        view("", "circle", circle),
        view("a line", "freehand", freehand(square, closed=0)),
        view("a place", "pin", "<x>1</x><y>2</y>"),
        view("here", "pointer", ""),
        view("Tumor", "freehand", freehand(square[:2])),
    )
    left_out = r"no area \(1\), open line \(1\), pin \(1\), pointer \(1\)$"
    with Slide(write_ndpi(tmp_path / "a.tif", NOISE)) as slide, pytest.warns(UserWarning, match=left_out):
        tumor, disc = read_polygons(path, slide)["a.ndpi"]
    assert (tumor.class_name, disc.class_name) == ("Tumor", "#00ff00")
    assert tumor.shape.bounds == (10, 20, 50, 60)
    assert disc.shape.bounds == pytest.approx((280, 216, 360, 296))
    assert disc.shape.area == pytest.approx(np.pi * 40**2, rel=1e-4)


def test_nanometres_need_a_slide_that_says_where_it_lies(tmp_path):
    path = write_ndpa(tmp_path, view("Tumor", "freehand", freehand([(0, 0), (9, 0), (9, 9)])))
    assert fault(read_polygons, path).endswith("nanometres from the centre of the glass; give the slide as well")
    with Slide(write_pyramid(tmp_path / "b.tif", NOISE)) as slide:
        message = fault(read_polygons, path, slide)
        assert message.startswith(f"{slide.path}: does not say where on its glass the scan lies; expected the .ndpi")
    with Slide(write_ndpi(tmp_path / "a.tif", NOISE)) as slide:
        pixels = write_ndpa(tmp_path, view("Tumor", "freehand", "", unit="pixels"))
        assert "annotation 1 ('Tumor') counts in 'pixels'; expected nanometers" in fault(read_polygons, pixels, slide)
        nowhere = write_ndpa(tmp_path, view("Tumor", "freehand", freehand([(0, 0), (9, "left"), (9, 9)])))
        assert "annotation 1 ('Tumor'): corner 2 is (9.0, 'left')" in fault(read_polygons, nowhere, slide)
