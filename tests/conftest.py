"""What several test files share: tiny patches, a tiny configuration, an untrained pipeline, the staged data.

The hook comes before the first import of sedm, so every annotation is checked in every test, shapes included; a
whole number is accepted where a float is expected (PEP 484). Tests compare with loops written by hand and closed
forms, to the last digit, so everything computes in float32 on every machine; test_hardware.py says what bfloat16
changes. Heavy imports stand inside the fixtures: the process that hands out the tests needs none of them.
"""
# ruff: noqa: E402

import os

os.environ["SEDM_PRECISION"] = "float32"  # of subprocesses too
os.environ["OMP_NUM_THREADS"] = "1"  # two threads are slower than one where another process wants a core

from jaxtyping import install_import_hook

install_import_hook("sedm", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import gc
import importlib.util
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGED = ROOT.parent / "shared" / "data"
SIZE = 16  # px a side
SETTINGS = dict(os.environ)
FOLDERS = {"ebhi": "ebhi_seg_128", "pets": "oxford_pets_3_128"}
COLOURS = ((200, 60, 60), (60, 180, 60), (60, 60, 200), (190, 180, 50))  # of the groups
CLASSES = ("stroma", "tumour")
NOTEBOOK_TESTS = (  # those that look at run notebooks, by the fixture ``graphs``
    "tests/notebooks/test_notebooks.py",
    "tests/runtime/test_interruptions.py",
    "tests/demo/test_browser.py::test_notebook_03_runs_from_top_to_bottom_in_jupyterlab",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Share the tests between processes by file, but give all that look at the same run notebooks to one process.

    ``--dist loadgroup`` would do it by marks, but groups nothing under pytest 9.2: pytest-xdist issue 1386.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "notebooks" if nodeid.startswith(NOTEBOOK_TESTS) else nodeid.partition("::")[0]

    return FileScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Begin with what takes longest: the run notebooks, the browser, then the files with the most tests.

    So neither process waits for the other in the end.
    """
    for item in items:
        assert item.nodeid.startswith(NOTEBOOK_TESTS) or "graphs" not in item.fixturenames, f"{item}: NOTEBOOK_TESTS"
    sizes = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith(NOTEBOOK_TESTS),
            item.get_closest_marker("browser") is None,
            -sizes[item.path],
            item.path,
        )
    )


def pytest_collection_finish():
    """Draw on no screen, and keep the garbage collector from walking through all imports again: a third of the time.

    No environment variable names the backend, since the kernels of notebooks would inherit it and show no figure.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def staged_data() -> Path:
    """The folder of staged real images; skips where there is none."""
    if not STAGED.is_dir():
        pytest.skip(f"no staged data at {STAGED}")
    return STAGED


@pytest.fixture
def patches():
    """Four groups of four images, a colour a group, brighter where the mask is 1; two groups are unannotated."""
    import torch

    from sedm.data.patch_table import UNKNOWN
    from sedm.data.patches import Patches

    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(16, SIZE, SIZE, dtype=torch.uint8)
    for mask in masks:
        row, column = torch.randint(SIZE - 7, (2,), generator=generator).tolist()
        mask[row : row + 7, column : column + 7] = 1
    colours = torch.tensor(COLOURS).repeat_interleave(4, dim=0)[:, :, None, None]
    grain = torch.randint(20, (16, 3, SIZE, SIZE), generator=generator)
    images = (colours + 30 * masks[:, None] + grain).clamp(max=255).to(torch.uint8)
    masks[8:] = UNKNOWN
    return Patches(images, masks, [f"group-{row // 4}" for row in range(16)], CLASSES)


@pytest.fixture
def table(patches):
    """The patches as a table, with null masks where unannotated and a free column ``block``."""
    from sedm.data.patch_table import UNKNOWN, from_arrays

    masks = [None if (mask == UNKNOWN).all() else mask.numpy() for mask in patches.masks]
    images = patches.images.permute(0, 2, 3, 1).numpy()
    return from_arrays(images, masks, patches.groups, block=[f"block-{row}" for row in range(len(images))])


@pytest.fixture
def config():
    """The smallest configuration that has everything: 16 px, six steps, a checkpoint every second step."""
    from sedm.config import ModelConfig, SamplingConfig, TrainingConfig, build_config

    smoke = build_config("tissue", "smoke")
    return replace(
        smoke,
        data=replace(smoke.data, image_size=SIZE),
        model=ModelConfig((8, 16), style_dim=8, style_channels=(8, 8)),
        training=TrainingConfig(
            n_steps=6,
            batch_size=8,
            warmup_steps=2,
            checkpoint_every=2,
            learning_rate=1e-3,
            unannotated="null_layout",
        ),
        sampling=SamplingConfig(n_images=10, n_steps=2, n_style_images=2, micro_batch=2),
    )


@pytest.fixture
def pipeline(config):
    """An untrained pipeline of two classes."""
    from sedm.generator.denoiser import build_model
    from sedm.generator.pipeline import SEDMPipeline

    pipeline = SEDMPipeline.from_model(build_model(config.model, n_classes=2, image_size=SIZE, seed=0).eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def unchecked():
    """No shape checks, as in a user's run: the library's own errors have to catch the fault."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def run() -> ModuleType:
    """``notebooks/run.py`` as a module."""
    sys.path.insert(0, str(ROOT / "notebooks"))  # as Python does for a script
    spec = importlib.util.spec_from_file_location("run", ROOT / "notebooks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["run"] = module
    spec.loader.exec_module(module)
    return module


def encode_png(width, height, n_bits, colour_type, rows=b""):
    """Write a PNG that Pillow cannot write, or one so large that only its head is to be read.

    Source: the PNG specification, sections 5 and 11.2; colour type 0 is grey, 2 is RGB.
    """
    head = struct.pack(">IIBBBBB", width, height, n_bits, colour_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def snakemake(root, folder, study, data="", options=()):
    """Run every notebook of a study into a folder by Snakemake, and return what it printed."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", "notebooks/Snakefile", "--directory", str(root)]
    command += ["--cores", "1", "--nolock", "--quiet", "rules", "host", "progress", *options]
    command += ["--rerun-triggers", *sys.modules["run"].TRIGGERS, "--config"]
    command += [f"study={study}", "preset=smoke", "seed=0", f"data={data}"]
    command += [f"runs={folder / 'runs'}", f"figures={folder / 'figures'}"]
    ended = subprocess.run(command, cwd=root, env=SETTINGS, capture_output=True, text=True, check=False)
    lines = [line for line in (ended.stdout + ended.stderr).splitlines() if "%|" not in line]  # no progress bars
    assert ended.returncode == 0, "\n".join(lines[-60:])
    return ended.stdout + ended.stderr


def run_graph(root, folder, study, data):
    """Run every notebook of a study into a folder, and return the folder."""
    snakemake(root, folder, study, data)
    return folder


@pytest.fixture(scope="session")
def graphs(root, run, request, tmp_path_factory):
    """The runs that the tests of this session need, by study or ``by_hand``, as futures; two run at a time."""
    needed = {name for item in request.session.items if "graphs" in item.fixturenames for name in item.fixturenames}
    data = {"tissue": "", "ebhi": STAGED / FOLDERS["ebhi"]}
    data |= {"flowers": "", "pets": STAGED / FOLDERS["pets"]}
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = {
            study: pool.submit(run_graph, root, tmp_path_factory.mktemp(study), study, folder)
            for study, folder in data.items()
            if study in needed and (not folder or folder.is_dir())
        }
        if "own_images" in needed:
            folder = tmp_path_factory.mktemp("own images")
            runs["own_images"] = pool.submit(run_graph, root, folder, write_own_images(folder / "my glands"), "")
        if "by_hand" in needed:
            runs["by_hand"] = pool.submit(run_by_hand, root, tmp_path_factory.mktemp("by_hand"))
        yield runs


def write_own_images(folder):
    """Write images of twelve groups, masks of eight of them, and a study.toml, as a user would; return that file."""
    from sedm.data.drawn.tissue import make_tissue

    table = make_tissue(12, 4, image_size=48, seed=0)
    for row, patch in enumerate(table):
        for kind in ("image", "mask"):
            path = folder / f"{kind}s" / patch["group"] / f"{row}.png"
            if kind == "image" or patch["group"] < "patient-008":
                path.parent.mkdir(parents=True, exist_ok=True)
                patch[kind].save(path)
    file = folder / "study.toml"
    file.write_text('title = "Ours"\ngroup = "patient"\nclasses = ["stroma", "epithelium", "lumen"]\n')
    return file


@pytest.fixture(scope="session")
def tissue(graphs):
    return graphs["tissue"].result()


def copy_checkout(root, folder):
    """Copy what the notebooks need, set to ``smoke``, and return the copy."""
    for name in ("sedm", "notebooks", "data/models", "figures/laboratories"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "notebooks").glob("*.ipynb"):
        text = path.read_text()
        assert text.count('preset = \\"quick\\"') == 1
        path.write_text(text.replace('preset = \\"quick\\"', 'preset = \\"smoke\\"'))
    return folder


def execute_by_hand(folder, *notebooks):
    """Run notebooks one after the other as JupyterLab and VS Code do: the kernel starts in the notebooks' folder."""
    command = [sys.executable, "-m", "jupyter", "execute", *(f"{name}.ipynb" for name in notebooks)]
    settings = {**SETTINGS, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder / "notebooks", env=settings, capture_output=True, text=True, check=False)


def run_by_hand(root, folder):
    """Copy the checkout to a folder with an awkward name, run every notebook there by hand, and return the copy."""
    copy = copy_checkout(root, folder / "it's 100% my work")
    names = sorted(path.stem for path in (copy / "notebooks").glob("*.ipynb"))
    ended = execute_by_hand(copy, *names)
    assert ended.returncode == 0, ended.stderr[-6000:]
    return copy


@pytest.fixture(scope="session")
def by_hand(graphs):
    return graphs["by_hand"].result()
