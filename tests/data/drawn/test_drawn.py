"""The embedded images are pure functions of their indices, follow optics, and carry style by group."""

import multiprocessing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from sedm import fidelity
from sedm.data.drawn import flowers, tissue
from sedm.data.drawn.anatomy import LUMEN, STROMA, WINDOW, draw_anatomy, place_cells, to_canvas
from sedm.data.drawn.canvas import _openblas, draw_all, one_thread_products
from sedm.data.drawn.flowers import draw_image, make_flowers
from sedm.data.drawn.patients import ARCHITECTURES, RANGES, SHARES, patient_style
from sedm.data.drawn.tissue import draw_patch, make_tissue, transmit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def patients():
    """Eight patients of four patches at 48 px: images (32, 48, 48, 3), masks (32, 48, 48), groups."""
    table = make_tissue(8, 4, image_size=48, seed=0)
    return np.stack(table["image"][:]), np.stack(table["mask"][:]), table["group"][:]


@pytest.fixture(scope="module")
def sample():
    """A sample large enough for shares of variance, 24 patients of 12 patches at 64 px.

    As a namespace: `colours` (288, 6), the statistics of `fidelity`; `patients` and `architectures`, lists.
    """
    table = make_tissue(24, 12, image_size=64, seed=0)
    images = torch.from_numpy(np.stack(table["image"][:])).permute(0, 3, 1, 2)
    columns = {"patients": table["group"][:], "architectures": table["architecture"][:]}
    return SimpleNamespace(colours=fidelity.colour_statistics(images), **columns)


@pytest.fixture(scope="module")
def species():
    """Eight species of four photographs at 48 px: images (32, 48, 48, 3), masks (32, 48, 48), groups."""
    table = make_flowers(8, 4, image_size=48, seed=0)
    return np.stack(table["image"][:]), np.stack(table["mask"][:]), table["group"][:]


def intraclass_correlation(values: np.ndarray) -> float:
    """ICC(1) of (groups, members), from the F of a one-way analysis of variance: (F − 1) / (F + k − 1)."""
    f = stats.f_oneway(*values).statistic
    return (f - 1) / (f + values.shape[1] - 1)


@pytest.mark.parametrize(("draw", "size"), [(draw_patch, 64), (draw_image, 64), (draw_patch, 50), (draw_image, 50)])
def test_same_index_gives_the_same_bytes_and_another_index_another_image(draw, size):
    image, mask = draw(7, 3, 2, size)
    again, mask_again = draw(7, 3, 2, size)
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == (size, size, 3)
    assert mask.shape == (size, size)
    assert np.array_equal(image, again)
    assert np.array_equal(mask, mask_again)
    for other in ((8, 3, 2), (7, 4, 2), (7, 3, 3)):
        assert not np.array_equal(mask, draw(*other, size)[1])


@pytest.mark.parametrize(("make", "first"), [(make_tissue, "first_patient"), (make_flowers, "first_species")])
def test_a_row_does_not_depend_on_how_many_are_asked(make, first):
    table = make(3, 2, image_size=32, seed=5)
    alone = make(1, 3, image_size=32, seed=5, **{first: 2})
    for row in range(2):
        for column in set(table.column_names) - {"image", "mask"}:
            assert alone[column][row] == table[column][4 + row]
        for column in ("image", "mask"):
            assert np.array_equal(np.asarray(alone[row][column]), np.asarray(table[4 + row][column]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs forked processes")
@pytest.mark.parametrize("draw", [draw_patch, draw_image])
def test_images_do_not_depend_on_the_number_of_processes(draw):
    torch.nn.functional.conv2d(torch.ones(8, 16, 64, 64), torch.ones(16, 16, 3, 3))  # torch's threads are running
    np.ones((300, 300)) @ np.ones((300, 300))  # and so are those of numpy
    arguments = [(7, group, number, 32) for group in range(3) for number in range(3)]
    alone, shared = ([*zip(*draw_all(draw, arguments, n_processes=n), strict=True)] for n in (1, 2))
    for columns in zip(alone, shared, strict=True):
        assert np.array_equal(*columns)


def test_an_error_while_drawing_reaches_the_caller():
    for n_processes in (1, 2) if "fork" in multiprocessing.get_all_start_methods() else (1,):
        with pytest.raises(ZeroDivisionError):
            draw_all(divmod, [(1, 1), (1, 0)] * 8, n_processes=n_processes)


def test_products_of_one_thread_leave_the_number_of_threads_as_it_was():
    read, _ = _openblas()
    before = read()
    with one_thread_products():
        assert read() == 1
    assert read() == before


def test_tables_have_the_promised_columns():
    row = make_tissue(1, 1, image_size=32, population="shifted", first_patient=11)[0]
    assert row["image"].mode == "RGB"
    assert row["mask"].mode == "L"
    assert row["image"].size == (32, 32)
    assert (row["group"], row["population"]) == ("patient-011", "shifted")
    assert row["architecture"] in ARCHITECTURES
    row = make_flowers(1, 1, image_size=32, first_species=4)[0]
    assert row["image"].mode == "RGB"
    assert row["mask"].mode == "L"
    assert row["group"] == "species-04"


def test_the_scene_does_not_depend_on_the_image_size():
    """Area averages of the large image must agree with the small one, up to sensor noise and rounding."""
    for draw in (draw_patch, draw_image):
        large, small = draw(0, 1, 0, 128)[0].astype(float), draw(0, 1, 0, 64)[0].astype(float)
        means = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(means - small).mean() < 3
        assert np.corrcoef(means.ravel(), small.ravel())[0, 1] > 0.98


def test_every_class_is_drawn_and_no_other(patients, species):
    for (_, masks, _), classes in ((patients, tissue.CLASSES), (species, flowers.CLASSES)):
        assert set(np.unique(masks)) == set(range(len(classes)))


def test_composition_of_tissue_is_natural_and_varies(patients):
    shares = np.stack([(patients[1] == k).mean(axis=(1, 2)) for k in range(3)], axis=1)
    assert 0.3 < shares[:, 1].mean() < 0.5
    assert shares[:, 1].std() > 0.06
    assert 0.05 < shares[:, 2].mean() < 0.2
    assert (shares > 0).mean() > 0.9


@pytest.mark.parametrize("kind", ["patients", "species"])
def test_groups_separate_in_colour(kind, request):
    images, _, groups = request.getfixturevalue(kind)
    assert groups == sorted(groups)
    colours = images.reshape(8, 4, -1, 3).mean(axis=2)
    assert all(intraclass_correlation(colours[..., channel]) > 0.5 for channel in range(3))


def test_composition_does_not_separate_patients_as_colour_does(patients):
    epithelium = (patients[1] == 1).mean(axis=(1, 2)).reshape(8, 4)
    assert intraclass_correlation(epithelium) < 0.5


def test_transmitted_light_follows_beer_lambert():
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    glass = np.array([0.9, 0.95, 1.0])
    planted = np.zeros((4, 4, 2))
    planted[..., 0] = 2.0
    light = transmit(planted, np.stack([haematoxylin, eosin]), glass)
    expected = [0.9 * 2.718281828459045**-1.30, 0.95 * 2.718281828459045**-1.40, 2.718281828459045**-0.58]
    np.testing.assert_allclose(light, np.broadcast_to(expected, (4, 4, 3)), rtol=1e-12)
    # Optical densities add: both stains together let through the product of each alone.
    both = transmit(np.array([0.4, 0.6]), np.stack([haematoxylin, eosin]), np.ones(3))
    alone = [transmit(np.array(stain), np.stack([haematoxylin, eosin]), np.ones(3)) for stain in ([0.4, 0], [0, 0.6])]
    np.testing.assert_allclose(both, alone[0] * alone[1])


def test_stains_fall_where_a_pathologist_expects_them(patients):
    """Epithelium absorbs more red light (haematoxylin) than stroma, and the lumen is brightest."""
    images, masks, _ = patients
    red = [np.mean([i[..., 0][m == k].mean() for i, m in zip(images, masks, strict=True) if (m == k).any()])
           for k in range(3)]  # fmt: skip
    assert red[1] < red[0] < red[2]


@pytest.mark.parametrize("statistic", fidelity.STATISTICS)
def test_colour_separates_patients_as_it_separates_biopsies(sample, statistic):
    """Share of variance between cases of colorectal biopsies (EBHI-SEG): 0.65 to 0.84."""
    values = sample.colours[:, fidelity.STATISTICS.index(statistic)]
    assert 0.65 < fidelity.intraclass_correlation(values, sample.patients) < 0.84


@pytest.mark.parametrize("statistic", fidelity.STATISTICS)
def test_colour_hardly_separates_architectures(sample, statistic):
    """Share of variance between grades of colorectal biopsies (EBHI-SEG): 0.03 to 0.13."""
    values = sample.colours[:, fidelity.STATISTICS.index(statistic)]
    assert 0.03 < fidelity.intraclass_correlation(values, sample.architectures) < 0.13


def test_every_patient_shows_every_architecture_in_its_share(sample):
    counts = np.array([[sample.architectures[12 * p : 12 * p + 12].count(kind) for kind in ARCHITECTURES]
                       for p in range(24)])  # fmt: skip
    assert np.abs(counts - 12 * np.array(SHARES)).max() < 2


@pytest.mark.parametrize("patient", range(4))
def test_dead_cells_lie_in_the_lumen_alone(patient, monkeypatch):
    drawn = []
    for necrosis in (-3.0, 3.0):
        monkeypatch.setitem(RANGES["source"], "necrosis", (necrosis, necrosis))
        drawn.append(draw_patch(0, patient, 0, 128))
    (clean, mask), (dirty, same) = drawn
    assert np.array_equal(mask, same)
    change = np.abs(clean.astype(int) - dirty).max(axis=2)
    beyond_blur = ndimage.distance_transform_edt(mask != LUMEN) > 4
    assert change[beyond_blur].max() <= 1
    assert (change[mask == LUMEN] > 20).mean() > 0.3
    assert dirty[mask == LUMEN].mean() < clean[mask == LUMEN].mean() - 10


@pytest.mark.parametrize("patient", range(4))
def test_fat_cells_lie_in_the_stroma_and_hold_no_other_cell(patient, monkeypatch):
    style = patient_style(0, patient, "source")
    for architecture in ARCHITECTURES:
        scenes = []
        for fat in (-1.0, 2.0):
            style = replace(style, architecture=architecture, fat=fat)
            scenes.append(draw_anatomy(style, np.random.default_rng(patient)))
        assert (scenes[0].fat < 0).all()
        assert np.array_equal(scenes[0].classes, scenes[1].classes)
        in_fat = to_canvas(scenes[1].fat) > 0
        assert (scenes[1].classes[in_fat] == STROMA).all()
        column, row = place_cells(scenes[1], style, np.random.default_rng(0))[:, :2].astype(int).T - WINDOW
        assert len(row) > 50
        assert not in_fat[row, column].any()

    empty = []
    for fat in (-3.0, 3.0):
        monkeypatch.setitem(RANGES["source"], "fat", (fat, fat))
        image, mask = draw_patch(0, patient, 0, 128)
        glass = image[mask == LUMEN].min(axis=1).max() - 25
        empty.append((image[mask == STROMA].min(axis=1) > glass).mean())
    assert empty[1] > empty[0] + 0.05


def test_shifted_patients_lie_outside_the_source(patients):
    """By their stains, and by their colours: farther from the nearest source patient than those from each other."""
    assert set(RANGES["shifted"]) < set(RANGES["source"])
    ratios = {}
    for population in ("source", "shifted"):
        styles = [patient_style(0, patient, population) for patient in range(50)]
        ratios[population] = [(s.h_red / s.h_blue, s.e_blue / s.e_green, s.blur) for s in styles]
    assert (np.max(ratios["source"], axis=0) < np.min(ratios["shifted"], axis=0)).all()

    shifted = np.stack(make_tissue(8, 4, image_size=48, population="shifted")["image"][:])
    source, shifted = (
        fidelity.colour_statistics(torch.from_numpy(x).permute(0, 3, 1, 2)).reshape(8, 4, 6).mean(axis=1)
        for x in (patients[0], shifted)
    )
    scale = source.std(axis=0)
    apart = np.linalg.norm((source[:, None] - source) / scale, axis=2) + 1e9 * np.eye(8)
    across = np.linalg.norm((shifted[:, None] - source) / scale, axis=2)
    assert np.median(across.min(axis=1)) > 1.5 * np.median(apart.min(axis=1))


def test_flowers_stand_out_from_their_background(species):
    images, masks, _ = species
    assert 0.1 < masks.mean() < 0.5
    contrast = [np.linalg.norm(i[m == 1].mean(axis=0) - i[m == 0].mean(axis=0))
                for i, m in zip(images.astype(float), masks, strict=True)]  # fmt: skip
    assert np.quantile(contrast, 0.1) > 25


@pytest.mark.parametrize(
    ("arguments", "names"),
    [({"image_size": 8}, "image_size=8"), ({"seed": -1}, "seed=-1"), ({"population": "alien"}, "'alien'")],
)
def test_bad_requests_name_the_culprit(arguments, names):
    with pytest.raises(ValueError, match=names):
        make_tissue(1, 1, **arguments)
    if "population" not in arguments:
        with pytest.raises(ValueError, match=names):
            make_flowers(1, 1, **arguments)
    with pytest.raises(ValueError, match="ask for 1 or more"):
        make_flowers(0, 1)
