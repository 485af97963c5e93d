"""The page of notebook 06 in a real browser, served by Voilà and in JupyterLab; skipped where there is no Chromium."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import encode_png
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

PATIENCE = 240  # seconds for whatever a machine busy with other tests does
LAB = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
PICTURE = """async () => {
    const image = document.querySelector("img.sedm-picture");
    const file = image && image.naturalWidth >= 64
        && await fetch(image.src).then((answer) => answer.blob(), () => null);
    return file ? [...new Uint8Array(await file.arrayBuffer())].join() : null;
}"""


@contextmanager
def serving(command, folder, root):
    """The address that a server prints; the server is interrupted in the end, and has to end by itself."""
    log = folder / "server.log"
    settings = {**os.environ, "PYTHONPATH": str(root), "JUPYTER_CONFIG_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=folder, env=settings, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield until(lambda: re.search(r"http://127\.0\.0\.1:\S+token=\w+", log.read_text())).group()
        finally:
            server.terminate()
            assert server.wait(PATIENCE) in (0, -15), log.read_text()


def until(look, *arguments, patience=PATIENCE):
    """What ``look`` returns, as soon as it is true."""
    end = time.monotonic() + patience
    while not (found := look(*arguments)):
        assert time.monotonic() < end, f"{look} is not true after {patience} s"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def browser():
    options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tabs(browser):
    """Tabs at the size for which the page was designed."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(1000 * PATIENCE)
    yield context
    context.close()


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with serving([sys.executable, "-m", "sedm", "demo", "--no-browser", "--port", "8950"], folder, root) as address:
        yield address


@pytest.fixture(scope="module")
def served(tabs, address):
    """The page as Voilà serves it, with its first picture."""
    tab = tabs.new_page()
    tab.goto(address)
    settled(tab)
    return tab


@pytest.fixture(scope="module")
def lab(tabs, root, tmp_path_factory):
    """The page within notebook 06 in JupyterLab, of which the cells up to the page were run."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = json.loads((root / "notebooks" / "06_style_mixing.ipynb").read_text())
    last = next(i for i, cell in enumerate(notebook["cells"]) if "page" in cell["metadata"].get("tags", []))
    notebook["cells"] = notebook["cells"][: last + 1]
    (folder / "06.ipynb").write_text(json.dumps(notebook))
    with serving([*LAB, "--port=8960", f"--notebook-dir={folder}"], folder, root) as address:
        tab = tabs.new_page()
        run_all_cells(tab, address, "06.ipynb")
        settled(tab)
        yield tab
        tab.close()


def run_all_cells(tab, address, notebook):
    """Open a notebook in JupyterLab and run it from its menu."""
    tab.goto(re.sub(r"/(lab)?\?", f"/lab/tree/{notebook}?", address))
    tab.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def test_notebook_03_runs_from_top_to_bottom_in_jupyterlab(tabs, by_hand, tmp_path):
    """As ``make lab`` serves it: the kernel starts in notebooks/, notebook 02 ran before."""
    path = by_hand / "notebooks" / "03_diffusion_training.ipynb"

    def finished_cells():
        tab.keyboard.press("Control+s")  # JupyterLab draws only the cells in sight, but saves all
        time.sleep(1)
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        errors = [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
        assert errors == []
        return all(cell["execution_count"] for cell in code) and code

    with serving([*LAB, "--port=8970", f"--notebook-dir={by_hand}"], tmp_path, by_hand) as address:
        tab = tabs.new_page()
        run_all_cells(tab, address, "notebooks/03_diffusion_training.ipynb")
        cells = until(finished_cells, patience=2 * PATIENCE)
        tab.close()
    assert "**Found.**" in json.dumps(cells, ensure_ascii=False)
    assert "image/png" in json.dumps(cells)


@pytest.fixture(params=["served", "lab"])
def page(request):
    """The page, in both places."""
    return request.getfixturevalue(request.param)


def picture(tab):
    return tab.evaluate(PICTURE)


def settled(tab):
    """The final picture, as soon as nothing is being drawn."""

    def final():
        status = tab.locator(".sedm-status").all_inner_texts()
        idle = tab.locator(".sedm-busy:not(.sedm-on)").count()
        return idle and status and status[0].split(",")[0].endswith(" steps") and picture(tab)

    return until(final)


def drawn_anew(tab, before):
    """The final picture after a change."""
    until(lambda: picture(tab) != before)
    return settled(tab)


def column(tab, title):
    return tab.locator(".sedm-card", has=tab.get_by_role("heading", name=title))


def weight(tab, letter):
    """The handle of a style's slider."""
    return column(tab, "Styles").locator(".noUi-handle").nth("ABCD".index(letter))


def upload(tab, button, name, content):
    with tab.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files([{"name": name, "mimeType": "", "buffer": content}])


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    return file.getvalue()


GREY = Image.new("RGB", (40, 30), (120, 80, 90))
REFUSED = {
    "notes.txt": (b"just some words", "not a picture"),
    "huge.png": (encode_png(20_000, 20_000, n_bits=1, colour_type=0), "at most 8192 px a side"),
    "alpha.png": (encoded(GREY.convert("RGBA")), "alpha channel"),
    "deep.png": (encoded(Image.fromarray(np.zeros((32, 32), np.uint16))), "more than 8 bits"),
    "moving.png": (encoded(GREY, save_all=True, append_images=[GREY.rotate(90)]), "2 frames"),
}


def test_a_slider_moved_by_keyboard_changes_the_picture(page):
    before = settled(page)
    weight(page, "B").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert drawn_anew(page, before) != before
    assert "5%" in column(page, "Styles").locator(".sedm-share").all_inner_texts()


def test_a_slider_moved_by_mouse_shows_a_preview_first(page):
    before, handle = settled(page), weight(page, "B").bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(handle["x"] + 90, handle["y"], steps=3)
    page.mouse.up()
    seen = until(lambda: [text for text in page.locator(".sedm-status").all_inner_texts() if "preview" in text])
    assert seen[0].startswith("preview, 4 steps")
    assert drawn_anew(page, before) != before


def test_a_layout_can_be_painted_by_mouse_and_by_keyboard(page):
    before, canvas = settled(page), column(page, "Layout").locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 230, steps=5)
    page.mouse.up()
    painted = drawn_anew(page, before)
    column(page, "Layout").get_by_role("button", name="lumen").click()
    canvas.focus()
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    assert drawn_anew(page, painted) not in (before, painted)
    column(page, "Layout").get_by_role("button", name="Undo").click()
    column(page, "Layout").get_by_role("button", name="Undo").click()
    until(lambda: settled(page) == before)


def test_an_own_picture_lends_its_style(page):
    before = settled(page)
    content = encoded(Image.effect_noise((300, 200), 90).convert("RGB"), format="JPEG")
    upload(page, page.get_by_role("button", name="Own pictures"), "mine.jpg", content)
    assert drawn_anew(page, before) != before
    assert column(page, "Styles").locator("select").nth(1).input_value() == "mine.jpg"
    assert page.locator(".sedm-plane button[data-name='mine.jpg']").inner_text() == "B"


@pytest.mark.parametrize("button", ["Own pictures", "Mask file"])
def test_an_unfit_upload_is_answered_with_one_sentence(page, button):
    before = settled(page)
    for name, (content, words) in REFUSED.items():
        upload(page, page.get_by_role("button", name=button), name, content)
        alert = page.locator(".sedm-error[role=alert]").filter(has_text=name)
        assert words in alert.inner_text()
    assert settled(page) == before
    column(page, "Picture").get_by_role("button", name="New noise").click()
    assert drawn_anew(page, before) != before
    assert not page.locator(".sedm-error").count()


def test_every_control_is_reached_and_works_by_keyboard_alone(served):
    before = settled(served)
    served.locator(".sedm-head select").focus()
    reached, last = [], None
    while len(reached) < 60:
        served.keyboard.press("Tab")
        reached.append(served.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
        if served.evaluate("document.activeElement.dataset.name"):  # the map is the last control
            last = served.evaluate("document.activeElement.dataset.name")
            break
    assert last is not None
    for control in ("<canvas", "noUi-handle", "<select", "<input", "widget-upload", "widget-toggle-button"):
        assert any(control in one for one in reached), control
    assert len(reached) >= 25
    served.keyboard.press("ArrowRight")
    picked = served.evaluate("document.activeElement.dataset.name")
    assert picked != last
    served.keyboard.press("Enter")
    assert drawn_anew(served, before) != before
    assert column(served, "Styles").locator("select").nth(1).input_value() == picked


def test_the_page_fits_its_window_with_its_columns_aligned(served):
    settled(served)
    cards = [card.bounding_box() for card in served.locator(".sedm-card").all()]
    *columns, walk = cards
    assert len({round(card["y"]) for card in columns}) == len({round(card["height"]) for card in columns}) == 1
    assert round(columns[0]["x"]) == round(walk["x"])
    assert round(columns[-1]["x"] + columns[-1]["width"]) == round(walk["x"] + walk["width"])
    assert walk["y"] + walk["height"] <= 800
    assert served.evaluate("document.documentElement.scrollWidth") == 1280
    assert served.locator(".jp-InputArea, .jp-InputPrompt").count() == 0


def test_another_model_can_be_chosen(served):
    before = settled(served)
    served.get_by_label("Model").select_option("ebhi")
    assert drawn_anew(served, before) != before
    assert "doi:10.3389/fmed.2023.1114673" in served.locator(".sedm-about").inner_text()
    served.get_by_label("Model").select_option("tissue")
    until(lambda: settled(served) == before)


def test_two_tabs_at_once_and_a_reload_start_afresh_each(tabs, served, address):
    other = tabs.new_page()
    other.goto(address)
    first, untouched = settled(other), settled(served)
    weight(other, "B").focus()
    weight(served, "B").focus()
    other.keyboard.press("End")
    served.keyboard.press("Home")
    changed = drawn_anew(other, first)
    served.keyboard.press("End")
    assert settled(served) != changed
    assert drawn_anew(other, first) == changed
    assert untouched != first
    other.reload()
    until(lambda: picture(other))
    assert settled(other) == first
    other.close()


def test_nothing_is_served_without_the_token(browser, address):
    stranger = browser.new_context().new_page()
    stranger.goto(address.split("?")[0])
    assert stranger.locator("input[type=password]").count()
    assert stranger.locator(".sedm, #rendered_cells").count() == 0
    stranger.context.close()
