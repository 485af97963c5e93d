"""The base install is the library: it imports without the libraries of the extras, and names a missing extra."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

OPTIONAL = {
    "notebooks": ["jupyterlab", "papermill", "snakemake", "tensorboard"],
    "demo": ["anywidget", "ipywidgets", "traitlets", "voila"],
    "slides": ["defusedxml", "openslide", "pydicom", "rasterio", "shapely", "tiffslide"],
    "paper": ["typst"],
    "test": ["beartype", "nbstripout", "playwright", "psutil", "pytest", "tifffile"],
}
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {[name for names in OPTIONAL.values() for name in names]}:
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
"""
IMPORT_ALL = """
import importlib, pkgutil, sedm
for module in pkgutil.walk_packages(sedm.__path__, "sedm."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            print(module.name, error.name or error, sep=": ")
print("all tried")
"""


def start(root, code, *arguments):
    """Run a few lines of Python where the extras are missing."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_library_imports_without_any_extra(root):
    """Only the page of the demo and the reading of slides need more."""
    ended = start(root, IMPORT_ALL)
    *failures, last = ended.stdout.splitlines()
    assert last == "all tried", ended.stderr
    rooms = {failure.partition(": ")[0].rpartition(".")[0] for failure in failures}
    assert rooms == {"sedm.data.archives", "sedm.data.slides", "sedm.demo"}
    for failure in failures:
        module, culprit = failure.split(": ", maxsplit=1)
        if module.startswith("sedm.demo."):
            assert culprit.partition(".")[0] in OPTIONAL["demo"], failure
        else:
            library, words = culprit.split(maxsplit=1)
            assert library in OPTIONAL["slides"], failure
            assert words == 'is not installed; pip install "sedm[slides]" brings it', failure


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sedm.data.slides.slide", 'defusedxml is not installed; pip install "sedm[slides]" brings it'),
        ("import sedm.data.slides.polygons", 'shapely is not installed; pip install "sedm[slides]" brings it'),
        (
            "from sedm.__main__ import main; sys.exit(main(['data', 'catch', 'a', 'b', '--annotations', 'c']))",
            'shapely is not installed; pip install "sedm[slides]" brings it',
        ),
        ("import sedm; sedm.style_mixing(None)", 'ipywidgets is not installed; pip install "sedm[demo]" brings it'),
        (
            "from sedm.__main__ import main; sys.exit(main(['demo']))",
            'voila is not installed; pip install "sedm[demo]" brings it',
        ),
        (
            "sys.path.insert(0, 'notebooks'); import run; sys.exit(run.main(['PRESET=smoke']))",
            'snakemake is not installed; pip install "sedm[notebooks]" brings it',
        ),
        (
            "import runpy; runpy.run_path('paper/build.py', run_name='__main__')",
            'typst is not installed; pip install "sedm[paper]" brings it',
        ),
    ],
)
def test_what_needs_an_extra_names_it(root, code, sentence):
    ended = start(root, code)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-1].endswith(sentence)


def test_other_public_data_become_tables_without_a_reader_of_slides(root):
    ended = start(root, "from sedm.__main__ import main; main(['data', 'ebhi', 'nowhere', 'out'])")
    assert ended.stderr.strip() == "sedm data: nowhere: no such file or folder"


def test_training_keeps_its_metrics_without_tensorboard(root, tmp_path):
    code = f"""
from sedm.runtime.metrics import Metrics
with Metrics({str(tmp_path)!r}, first=0, enabled=True) as metrics:
    metrics.write(1, loss=0.5, gradient_norm=1.0, learning_rate=0.1)
"""
    ended = start(root, code)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
