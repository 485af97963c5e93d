"""The demo without a browser: what is rendered, what the controls do, what is refused, what is cached and stopped."""

import gc
import io
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from conftest import encode_png
from PIL import Image
from torch.testing import assert_close
from traitlets import Bunch

import sedm
from sedm.data.patch_table import UNKNOWN
from sedm.demo import (
    Mix,
    project_styles,
    read_layout,
    read_style_images,
    render_mix,
    style_mixing,
    style_of_files,
    unpack_layout,
)
from sedm.demo.page import PREVIEW_STEPS
from sedm.demo.uploads import style_of_images
from sedm.demo.worker import LatestWorker
from sedm.figures import colour_layout
from sedm.generation.generate import embed_bank
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline, noise_generators
from sedm.layouts import EmpiricalPrior
from sedm.sharing.pretrained import Pretrained
from sedm.styles.bank import StyleBank

SIZE = 16


@pytest.fixture
def pretrained(pipeline, patches):
    """An untrained pipeline with a prior of 16 px layouts and a bank of four groups."""
    annotated = patches.annotated()
    prior = EmpiricalPrior.fit_masks(annotated.masks, ("ground", "square"))
    bank = StyleBank(pipeline.embed(patches.images) * 20, patches.groups, list(map(str, range(16))))  # far apart
    return Pretrained("toy", pipeline, prior, bank)


@pytest.fixture
def page(pretrained, tmp_path):
    """A page whose first picture is drawn."""
    page = style_mixing(pretrained, steps=6, folder=tmp_path)
    assert page.worker.wait(60)
    assert page.error.value == ""
    return page


def pixels(content):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)


def settle(page):
    assert page.worker.wait(60)
    return pixels(page.view.value)


# ------------------------------------------------------------------------------------------- the pure functions


@pytest.fixture
def styles(pretrained):
    return pretrained.group_styles[:3]


@pytest.fixture
def layout(patches):
    return patches.masks[0]


def test_the_same_mixture_is_the_same_image_and_each_argument_changes_it(pipeline, patches, layout, styles):
    assert sedm.render_mix is render_mix
    base = {"weights": [1, 1, 0], "guidance_scale": 1.0, "steps": 2, "seed": 0}
    image = render_mix(pipeline, layout, styles, **base)
    assert image.equal(render_mix(pipeline, layout, styles, **base))
    assert not image.equal(render_mix(pipeline, patches.masks[1], styles, **base))
    for change in ({"weights": [0, 1, 1]}, {"guidance_scale": 3.0}, {"steps": 3}, {"seed": 1}):
        assert not image.equal(render_mix(pipeline, layout, styles, **(base | change)))


@pytest.mark.parametrize("corner", range(3))
def test_a_corner_of_the_simplex_is_exactly_the_unmixed_image(pipeline, layout, styles, corner):
    weights = [0.0] * 3
    weights[corner] = 0.3
    image = render_mix(pipeline, layout, styles, weights, steps=3, seed=5)
    unmixed = pipeline(layout[None], styles[[corner]], noise_generators(5, [0]), 3, output_type="pt").images[0]
    assert image.equal(unmixed)
    with pytest.raises(ValueError, match="sum must be above 0"):
        render_mix(pipeline, layout, styles, [0, 0, 0])


def test_a_walk_starts_and_ends_at_its_styles(pipeline, layout, styles):
    mix = Mix(layout, "", styles, ("a", "b", "c"), ("", "", ""), (1, 0, 0), guidance_scale=1.0, steps=3, seed=5)
    walk = mix.render_walk(pipeline, n=3)
    for image, weights in zip(walk, ([1, 0], [1, 1], [0, 1]), strict=True):
        alone = render_mix(pipeline, layout, styles[:2], weights, steps=3, seed=5)
        assert (image.int() - alone.int()).abs().max() <= 1  # sums in a batch may round differently


def test_two_renderings_at_once_do_not_disturb_each_other(pipeline, layout, styles):
    settings = {"steps": 5, "seed": 1}
    alone = render_mix(pipeline, layout, styles[:1], [1], **settings)
    between = []

    def render_another():  # in the middle of the first
        between.append(render_mix(pipeline, layout, styles[1:2], [1], steps=2, seed=3))

    assert render_mix(pipeline, layout, styles[:1], [1], **settings, before_step=render_another).equal(alone)
    assert len(between) == 5


# ---------------------------------------------------------------------------------------------------- the page


@pytest.mark.slow
def test_the_page_shows_what_the_pure_function_renders(page, pretrained):
    page.styles.amounts[1].value = 0.5
    shown, mix = settle(page), page.mix
    assert shown.equal(
        render_mix(pretrained.pipeline, page.layouts.layout, mix.styles, [1.0, 0.5], 1.0, steps=6, seed=0)
    )
    assert mix.shares == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.slow
def test_every_control_draws_the_picture_anew(page):
    others = [name for name in page.pretrained.styles.names if name not in page.styles.names]
    changes = [
        (page.styles.amounts[1], "value", 0.8),
        (page.styles.choices[0], "value", others[0]),
        (page.styles.choices[2], "value", page.styles.names[0]),
        (page.styles.amounts[2], "value", 1.0),
        (page.guidance, "value", 3.0),
        (page.steps, "value", 9),
        (page.seed, "value", 4),
        (page.layouts.number, "value", 3),
        (page.layouts.canvas, "layout_bytes", bytes(SIZE * SIZE)),
        (page.styles.map, "picked", [others[1], 1]),
    ]
    before = settle(page)
    for control, name, value in changes:
        setattr(control, name, value)
        after = settle(page)
        assert page.error.value == ""
        if control is not page.styles.choices[2]:  # a style of no weight changes nothing
            assert not after.equal(before), (control, name)
        before = after


@pytest.mark.slow
def test_a_weight_that_moves_encodes_nothing(page, monkeypatch):
    def encode(*_):
        raise AssertionError("encoded again")

    for name in ("embed", "encode_styles"):
        monkeypatch.setattr(type(page.pretrained.pipeline), name, encode)
    monkeypatch.setattr(page.pretrained.pipeline.style_encoder, "forward", encode)
    before = settle(page)
    for weight in (0.2, 0.7, 1.0):
        page.styles.amounts[1].value = weight
    assert not settle(page).equal(before)
    assert page.error.value == ""


@pytest.mark.slow
def test_a_new_input_stops_the_final_picture_between_two_steps(page, monkeypatch):
    pipeline, steps_done, running, go_on = page.pretrained.pipeline, [], threading.Event(), threading.Event()
    denoise = pipeline._denoise

    def slow(x_t, t, layouts, styles):
        steps_done.append(len(layouts))
        if len(steps_done) == PREVIEW_STEPS + 2:  # the second step of the final picture
            running.set()
            assert go_on.wait(30)
        return denoise(x_t, t, layouts, styles)

    monkeypatch.setattr(pipeline, "_denoise", slow)
    page.steps.value = 30
    assert running.wait(30)
    page.steps.value = 7
    go_on.set()
    settle(page)
    # the preview and two of 30 steps; then a preview, the final picture, the walk
    assert len(steps_done) == PREVIEW_STEPS + 2 + PREVIEW_STEPS + 7 + 7
    assert page.status.value.startswith("7 steps")


def test_the_newest_of_many_wishes_is_done_last_and_those_between_never():
    done, first, go_on = [], threading.Event(), threading.Event()
    worker = LatestWorker(on_error=done.append)

    def blocked(check):
        first.set()
        assert go_on.wait(30)
        check()
        done.append("first")

    worker.submit(blocked)
    assert first.wait(30)
    for name in "abc":
        worker.submit(lambda check, name=name: done.append(name))
    go_on.set()
    assert worker.wait(30)
    assert done == ["c"]
    worker.submit(lambda check: 1 / 0)
    assert worker.wait(30)
    assert isinstance(done[1], ZeroDivisionError)
    worker.submit(lambda check: done.append("alive"))
    assert worker.wait(30)
    assert done[-1] == "alive"


@pytest.mark.slow
def test_two_pages_share_a_generator_and_nothing_else(page, pretrained, tmp_path):
    other = style_mixing(pretrained, steps=6, folder=tmp_path)
    before = settle(page)
    other.seed.value, other.styles.amounts[1].value, other.layouts.number.value = 9, 1.0, 5
    other.layouts.canvas.layout_bytes = bytes(SIZE * SIZE)
    page.redraw()  # both draw at once
    assert settle(page).equal(before)
    assert (page.seed.value, page.layouts.number.value) == (0, 0)
    expected = render_mix(pretrained.pipeline, other.layouts.layout, other.mix.styles, other.mix.weights, 1.0, 6, 9)
    assert settle(other).equal(expected)


@pytest.mark.slow
def test_another_model_is_drawn_with_and_the_first_kept_as_it_was(page):
    page.layouts.number.value = 3
    page.styles.amounts[1].value = 0.4
    before = settle(page)
    page.model.value = "tissue"
    assert settle(page).shape == (3, 64, 64)
    assert page.error.value == ""
    shipped = sedm.load_pretrained("tissue")
    shown = render_mix(
        shipped.pipeline, shipped.layouts.sample(1, seed=0)[0], page.mix.styles, page.mix.weights, steps=6
    )
    assert settle(page).equal(shown)
    assert "load_pretrained('tissue')" in page.mix.code(page.pretrained.name)
    page.model.value = "toy"
    assert settle(page).equal(before)


@pytest.mark.slow
def test_points_whose_colour_is_not_drawn_yet_take_that_of_the_style_most_like_them(page):
    panel, names = page.styles, page.pretrained.styles.names
    assert len({point["colour"] for point in panel.map.points}) == len(names)  # the page has drawn them all
    panel._colours.clear()
    assert len(panel.colourless(3)) == 3
    panel.set_colours({names[0]: (1, 2, 3)})
    assert {point["colour"] for point in panel.map.points} == {"rgb(1, 2, 3)"}


@pytest.mark.slow
def test_an_error_is_a_sentence_on_the_page_that_goes_again(page):
    before = page.view.value
    page.styles.amounts[0].value = 0.0
    assert "all weights are 0" in page.error.value
    assert page.view.value == before
    page.styles.amounts[0].value = 1.0
    settle(page)
    assert page.error.value == ""
    page.layouts.undo.click()
    assert "no earlier layout" in page.error.value


@pytest.mark.slow
def test_an_error_while_drawing_is_on_the_page_too(page, monkeypatch):
    monkeypatch.setattr(page.pretrained.pipeline, "_denoise", lambda *_: 1 / 0)
    page.seed.value = 5
    settle(page)
    assert "ZeroDivisionError" in page.error.value
    assert "Traceback" not in page.error.value
    assert "sedm-on" not in page.busy._dom_classes


@pytest.mark.slow
def test_noise_that_is_not_kept_changes_with_every_input(page):
    page.styles.amounts[1].value = 0.3
    assert page.seed.value == 0
    page.hold.value = False
    page.styles.amounts[1].value = 0.4
    assert page.seed.value == 1
    page.noise.click()
    assert page.seed.value == 2


@pytest.mark.slow
def test_layouts_meet_the_shares_asked_for_and_say_their_own(page):
    page.layouts.wish.value = True
    page.layouts.amounts[0].value, page.layouts.amounts[1].value = 0.6, 0.4
    settle(page)
    assert (page.layouts.layout == 1).sum() == round(0.4 * SIZE**2)
    assert "39.8%" in page.layouts.shares[1].value
    page.layouts.amounts[0].value = page.layouts.amounts[1].value = 0.0
    assert "all shares are 0" in page.error.value


@pytest.mark.slow
def test_painting_can_be_undone(page):
    before = page.layouts.layout
    painted = before.clone()
    painted[:8] = 1
    page.layouts.canvas.set_state({"layout_bytes": memoryview(painted.numpy().tobytes())})  # as the browser's arrive
    assert page.layouts.layout.equal(painted)
    page.layouts.undo.click()
    assert page.layouts.layout.equal(before)
    assert page.layouts.canvas.layout_bytes == before.numpy().tobytes()


@pytest.mark.slow
def test_play_leaves_nothing_behind(page):
    def play(rounds):
        for turn in range(rounds):
            page.styles.amounts[1].value = 0.1 + 0.8 * (turn % 2)
            page.layouts.number.value = turn % 3
            page.layouts.canvas.layout_bytes = bytes([turn % 2]) * SIZE**2
            settle(page)
        gc.collect()
        things = gc.get_objects()
        return (
            sum(isinstance(one, torch.Tensor) for one in things),
            threading.active_count(),
            len(page.comm.kernel_ids) if hasattr(page.comm, "kernel_ids") else 0,
        )

    play(12)  # the layouts that can be gone back to are a fixed number
    assert play(4) == play(12)


# -------------------------------------------------------------------------------------- what can be taken along


@pytest.mark.slow
def test_the_code_cell_gives_the_same_picture(page, monkeypatch):
    layout = page.layouts.layout.clone()
    layout[:5] = 1
    for painted in (False, True):
        if painted:
            page.layouts.canvas.layout_bytes = layout.numpy().tobytes()
        page.styles.amounts[1].value, page.guidance.value, page.seed.value = 0.25, 1.5, 3
        shown, names = settle(page), {}
        page.show_code.value = False
        page.show_code.value = True
        monkeypatch.setattr(sedm, "load_pretrained", lambda name: {"toy": page.pretrained}[name])
        exec(page.code.value, names)
        assert names["image"].equal(shown)


@pytest.mark.slow
def test_a_saved_pair_is_the_picture_its_mask_and_its_settings(page, tmp_path):
    for number in (1, 2):
        shown, mix = settle(page), page.mix
        page.save.click()
        assert page.error.value == ""
        assert pixels((tmp_path / f"mix_000{number}.png").read_bytes()).equal(shown)
        mask = np.array(Image.open(tmp_path / f"mix_000{number}_mask.png"))
        assert np.array_equal(mask, page.layouts.layout.numpy())
        facts = json.loads((tmp_path / f"mix_000{number}.json").read_text())
        assert facts["styles"] == dict(zip(mix.style_names, mix.shares, strict=True))
        assert facts["seed"] == page.seed.value
        page.seed.value += 1
    assert len(list(tmp_path.iterdir())) == 6


# ------------------------------------------------------------------------------------------------- own pictures


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    return file.getvalue()


def upload(widget, name, content):
    file = Bunch(name=name, type="", size=len(content), content=memoryview(content), last_modified=datetime.now(UTC))
    widget.value = (file,)  # as the browser's arrive


GREY = Image.new("RGB", (40, 30), (120, 80, 90))
REFUSED = {
    "notes.txt": (b"just some words", "not a picture"),
    "wide.png": (encoded(Image.new("L", (20_000, 20))), "20000×20 px; at most 8192"),
    "bomb.png": (encode_png(20_000, 20_000, n_bits=1, colour_type=0), "at most 8192"),
    "tiny.png": (encoded(Image.new("RGB", (8, 8))), "at least 16 px"),
    "alpha.png": (encoded(GREY.convert("RGBA")), "alpha channel"),
    "palette.png": (encoded(GREY.convert("P"), transparency=0), "alpha channel"),
    "deep_colour.png": (encode_png(32, 32, 16, 2, rows=bytes(32 * (1 + 32 * 6))), "more than 8 bits"),  # of RGB
    "deep.png": (encoded(Image.fromarray(np.zeros((32, 32), np.uint16))), "more than 8 bits"),
    "deep.tif": (encoded(Image.fromarray(np.zeros((32, 32), np.uint16)), format="TIFF"), "more than 8 bits"),
    "moving.png": (encoded(GREY, save_all=True, append_images=[GREY.rotate(90)]), "2 frames"),
    "cut.png": (encoded(Image.effect_noise((64, 64), 50))[:900], "damaged or cut-off"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_an_unfit_upload_is_refused_in_one_sentence(page, name):
    content, words = REFUSED[name]
    before, points = settle(page), len(page.styles.map.points)
    for widget in (page.styles.upload, page.layouts.upload):
        page.error.value = ""
        upload(widget, name, content)
        assert words in page.error.value
        assert name in page.error.value
        assert "Error:" not in page.error.value
    assert settle(page).equal(before)
    assert len(page.styles.map.points) == points


@pytest.mark.slow
def test_an_own_picture_lends_its_style_and_is_encoded_once(page, monkeypatch, tmp_path):
    embedded = []
    embed = type(page.pretrained.pipeline).embed
    monkeypatch.setattr(type(page.pretrained.pipeline), "embed", lambda *a: embedded.append(1) or embed(*a))
    content = encoded(Image.effect_noise((50, 70), 90).convert("RGB"), format="JPEG")
    (tmp_path / "mine.jpg").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    before, others = settle(page), [choice.value for choice in page.styles.choices]
    upload(page.styles.upload, "mine.jpg", content)
    after = settle(page)
    assert not after.equal(before)
    assert [choice.value for choice in page.styles.choices] == [others[0], "mine.jpg", *others[2:]]
    assert "mine.jpg" in [point["name"] for point in page.styles.map.points]
    page.styles.amounts[1].value = 0.9
    shown = settle(page)
    assert embedded == [1]
    names = {}
    monkeypatch.setattr(sedm, "load_pretrained", lambda name: page.pretrained)
    exec(page.mix.code("toy"), names)
    assert names["image"].equal(shown)


def test_a_picture_of_any_size_becomes_a_square_of_the_models(pretrained):
    wide = Image.new("RGB", (300, 100), (10, 20, 30))
    wide.paste((200, 100, 0), (100, 0, 200, 100))  # the central square
    (image,) = read_style_images(encoded(wide), "wide.png", 64)
    assert image.shape == (3, 64, 64)
    assert image[:, 32, 2].tolist() == [200, 100, 0]
    for mode in ("L", "P", "CMYK", "1"):
        assert read_style_images(encoded(GREY.convert(mode), format="TIFF"), "a.tif", 32).shape == (1, 3, 32, 32)


@pytest.mark.slow
def test_the_page_offers_what_becomes_of_a_picture_that_is_no_square(page, monkeypatch, tmp_path):
    """A picture in tiles lends the style of all of them; the code says what was chosen."""
    wide = Image.effect_noise((64, 32), 90).convert("RGB")
    wide.paste((200, 20, 90), (0, 0, 32, 32))
    wide.save(tmp_path / "wide.png")
    monkeypatch.chdir(tmp_path)
    parts = [wide.crop((left, 0, left + 32, 32)).resize((SIZE, SIZE), Image.Resampling.LANCZOS) for left in (0, 32)]
    pixels = torch.stack([torch.from_numpy(np.array(part)).permute(2, 0, 1) for part in parts])
    assert [value for _, value in page.styles.fit.options] == ["crop", "pad", "squeeze", "tile"]
    assert [value for _, value in page.layouts.fit.options] == ["crop", "pad", "squeeze"]
    styles = {}
    for fit in ("crop", "tile"):
        page.styles.fit.value = fit
        upload(page.styles.upload, "wide.png", (tmp_path / "wide.png").read_bytes())
        assert page.error.value == ""
        styles[fit] = page.styles.styles[[page.styles.names.index("wide.png")]]
        assert f"fit='{fit}'" in page.styles.codes[page.styles.names.index("wide.png")]
        assert styles[fit].equal(style_of_files(page.pretrained, ["wide.png"], fit))
    assert styles["tile"].equal(style_of_images(page.pretrained, pixels))
    assert not styles["tile"].equal(styles["crop"])


@pytest.mark.slow
def test_a_mask_that_is_no_square_is_fitted_as_chosen(page):
    mask = np.zeros((SIZE, 2 * SIZE), np.uint8)
    mask[:, : SIZE // 2] = 1
    for fit, expected in (("crop", 0.0), ("squeeze", 0.25)):
        page.layouts.fit.value = fit
        upload(page.layouts.upload, "mask.png", encoded(Image.fromarray(mask)))
        assert page.layouts.layout.float().mean() == expected
    page.layouts.fit.value = "pad"
    upload(page.layouts.upload, "mask.png", encoded(Image.fromarray(mask)))
    assert page.error.value == ""
    assert (page.layouts.layout == UNKNOWN).float().mean() == 0.5


@pytest.mark.slow
def test_a_mask_comes_back_from_indices_and_from_the_colours_shown(page, patches):
    mask = patches.masks[1].clone()
    mask[0, 0] = UNKNOWN
    larger = np.kron(mask.numpy(), np.ones((3, 3), np.uint8))
    upload(page.layouts.upload, "mask.png", encoded(Image.fromarray(larger)))
    assert page.error.value == ""
    assert page.layouts.layout.equal(mask)
    assert unpack_layout(page.layouts.code.split('"')[1]).equal(mask)
    colours = colour_layout(patches.masks[:1])[0].permute(1, 2, 0).numpy()
    read = read_layout(encoded(Image.fromarray(colours)), "colours.png", ("a", "b"), SIZE)
    assert read.equal(patches.masks[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (Image.new("L", (32, 32), 7), {}, "holds the value 7; a mask holds 0 ground, 1 square"),
        (GREY, {}, "stands for no class"),
        (Image.new("L", (32, 32)), {"format": "JPEG"}, "blurs class indices"),
    ],
)
def test_a_mask_that_fits_no_class_is_refused(page, image, options, words):
    upload(page.layouts.upload, "mask", encoded(image, **options))
    assert words in page.error.value


def test_a_page_that_has_just_been_shown_gets_what_was_drawn_before_it_listened(page, monkeypatch):
    """Voilà's kernel draws before a browser comes: its changes reach nobody."""
    sent = []
    monkeypatch.setattr(widgets.Widget, "send_state", lambda widget, key=None: sent.append(widget))
    page.layouts.canvas._handle_custom_msg({"shown": True}, [])  # as the front end's model.send arrives
    assert {page.view, page.walk, page.busy, page.status, page.error, page.styles.map} <= set(sent)


def test_styles_by_class_have_places_on_the_map(config, patches):
    """Their embeddings are longer than their tokens; the bank's own groups fill the map."""
    model = replace(config.model, style_injection="class_film", aggregation="by_class")
    pipeline = SEDMPipeline.from_model(build_model(model, 2, 16, seed=0).eval())
    bank = embed_bank(pipeline, patches, [str(row) for row in range(len(patches))])
    pretrained = Pretrained("by class", pipeline, EmpiricalPrior.fit(patches.annotated()), bank)
    places = project_styles(pretrained, pretrained.group_styles)
    assert places.shape == (4, 2)
    assert_close(places.amin(0), -torch.ones(2))
    assert_close(places.amax(0), torch.ones(2))
