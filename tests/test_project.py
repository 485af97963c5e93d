"""The house is in order: who imports whom, what is pinned, how notebooks are committed."""

import ast
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import jaxtyping
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import sedm
from sedm.generator.denoiser import one_hot_layout

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"torchvision", "timm", "segmentation_models_pytorch", "torch_fidelity", "cleanfid", "lpips", "open_clip"}
DISTRIBUTIONS = {"PIL": "pillow", "openslide": "openslide-python"}  # where the name to import is not the one to install
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOMES = {  # public name → module
    alias.name: node.module
    for node in ast.parse((ROOT / "sedm" / "__init__.pyi").read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def modules():
    """Yield the dotted name and the code of every module of the library."""
    for path in sorted((ROOT / "sedm").rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text()


def imports(name, code):
    """Yield the absolute dotted names that a module imports anywhere, including those imported *from* a module."""
    package = name.split(".")[:-1]
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


@pytest.fixture(scope="module")
def imported():
    """What every module of the library imports: pairs of its name and a dotted name."""
    return {(name, target) for name, code in modules() for target in imports(name, code)}


def importing(imported, packages):
    """List the pairs whose import is one of these packages or from them."""
    return sorted((name, target) for name, target in imported if target.split(".")[0] in packages)


# ---------------------------------------------------------------------------------------- who imports whom


def check_layers(folder):
    """Check the copy of sedm in a folder against the contract in ``pyproject.toml``, by import-linter."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_rooms_import_only_from_the_floors_below():
    ended = check_layers(ROOT)
    assert ended.returncode == 0, ended.stdout
    assert "1 kept, 0 broken" in ended.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("generator/training", "from sedm.generation.generate import generate_patches"),
        ("data/patches", "from sedm import layouts"),
        ("config/settings", "import sedm.runtime.files"),
        ("figures/grids", "def plot():\n    from sedm.data.patch_table import UNKNOWN"),
        ("attic", "import sedm.demo"),  # a room that is on no floor
    ],
)
def test_a_planted_forbidden_import_is_found(tmp_path, module, line):
    shutil.copytree(ROOT / "sedm", tmp_path / "sedm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "sedm" / f"{module}.py").open("a") as file:
        file.write(f"\n{line}\n")
    ended = check_layers(tmp_path)
    assert ended.returncode != 0
    assert module.replace("/", ".") in ended.stdout


def test_no_two_modules_have_one_name_nor_that_of_the_standard_library():
    names = [name.removesuffix(".__init__").split(".")[-1] for name, _ in modules() if name != "sedm.__init__"]
    names.remove("__main__")
    assert sorted(set(names)) == sorted(names)
    assert sys.stdlib_module_names.isdisjoint(names)


def test_nothing_needs_torchvision(imported):
    assert importlib.util.find_spec("torchvision") is None
    assert importing(imported, FORBIDDEN) == []


def test_every_public_name_is_where_the_stub_says():
    assert sorted(HOMES) == sedm.__all__
    for name, home in HOMES.items():
        assert getattr(sedm, name) is getattr(importlib.import_module(f"sedm.{home}"), name)
    with pytest.raises(AttributeError, match="train_modle"):
        sedm.train_modle  # noqa: B018


def test_editors_can_complete_the_public_names():
    assert set(HOMES) <= set(dir(sedm))


def test_nothing_needs_unix(imported):
    assert importing(imported, {"fcntl", "grp", "pwd", "resource", "termios"}) == []


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, sedm; print(*sorted({'torch', 'diffusers', 'datasets'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ""


def test_shape_annotations_are_checked_in_these_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        one_hot_layout(torch.zeros(8, 8, dtype=torch.uint8), 2)


# ------------------------------------------------------------------------------------------ what is pinned


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def needs(*extras):
    """Return the version range of each package that the library needs with these extras, including nested extras."""
    specifiers = {}
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        requirement = Requirement(line)
        if requirement.name == "sedm":
            specifiers |= needs(*requirement.extras)
        else:
            specifiers[normal(requirement.name)] = requirement.specifier
    return specifiers


@pytest.fixture(scope="module")
def ranges():
    """The version range of each package that the project needs with all its extras."""
    return needs(*EXTRAS)


@pytest.fixture(scope="module")
def pins():
    """The version of each package in the lock file, by name."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    assert len({normal(name) for name, _ in pairs}) == len(pairs)
    return {normal(name): pin for name, pin in pairs}


def test_every_dependency_is_pinned_within_its_range(ranges, pins):
    assert [name for name in ranges if name not in pins] == []
    assert [name for name, allowed in ranges.items() if Version(pins[name]) not in allowed] == []


def test_pins_are_plain_versions_and_torch_is_that_of_pypi(pins):
    assert pins["torch"] == "2.13.0"
    assert [name for name, pin in pins.items() if str(Version(pin)) != pin or Version(pin).local] == []
    assert FORBIDDEN.isdisjoint(name.replace("-", "_") for name in pins)


def test_every_pinned_version_can_be_installed_on_the_oldest_python(pins):
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    needed = {normal(package.name): package.metadata["Requires-Python"] for package in distributions()}
    patch = Version(f"{oldest}.0")
    assert [name for name in pins if needed.get(name) and patch not in SpecifierSet(needed[name])] == []
    assert patch not in SpecifierSet(">=3.11.5")  # as a pin once asked for


def test_the_environment_installs_the_lock_and_then_the_project():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies == ["python=3.11", "pip", {"pip": ["-r requirements.lock", "-e ."]}]
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_the_tests_install_every_extra_and_the_library_none():
    """So the lock file, which is made from the extra ``test``, has all that any target of make needs."""
    assert set(EXTRAS) == {"notebooks", "demo", "slides", "paper", "cluster", "test"}
    assert needs("test") == needs(*EXTRAS)
    heavy = {"jupyterlab", "papermill", "snakemake", "tensorboard", "voila", "ipywidgets", "tiffslide", "typst"}
    assert heavy <= set(needs("test"))
    assert heavy.isdisjoint(needs())


def test_everything_the_library_imports_is_a_dependency(imported):
    packages = {target.split(".")[0] for _, target in imported}
    foreign = packages - set(sys.stdlib_module_names) - {"sedm"}
    known = needs("demo", "slides")
    assert [name for name in sorted(foreign) if normal(DISTRIBUTIONS.get(name, name)) not in known] == []


# ----------------------------------------------------------------------------------------------- notebooks


def cells_of(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_there_are_the_six_notebooks_of_the_design(run):
    assert [path.stem for path in NOTEBOOKS] == [name for kind in run.NOTEBOOKS.values() for name in kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    for cell in cells_of(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert "widgets" not in json.loads(path.read_text())["metadata"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_every_editor_without_a_question(path):
    """JupyterLab, VS Code and GitHub: it is valid, its kernel is everywhere, and its cells keep their names."""
    import nbformat  # takes seconds

    written = json.loads(path.read_text())
    nbformat.validate(written)
    assert (written["nbformat"], written["nbformat_minor"]) == (4, 5)
    assert written["metadata"]["kernelspec"]["name"] == "python3"
    assert written["metadata"]["language_info"]["name"] == "python"
    names = [cell["id"] for cell in written["cells"]]
    assert len(set(names)) == len(names)
    for link in re.findall(r"\]\(([^)#]+)\)", "\n".join(source(cell) for cell in written["cells"])):
        assert link.startswith("http") or (path.parent / link).exists(), link


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_question_claim_and_figures(path):
    opening = source(cells_of(path, "markdown")[0])
    assert json.loads(path.read_text())["cells"][0]["cell_type"] == "markdown"
    assert opening.startswith("# ")
    for word in ("**Question.**", "**Claim", "**Inputs.**", "**Figures.** `fig_"):
        assert word in opening
    assert "run time" in opening.lower()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_commented_literals_in_a_cell_of_their_own(path):
    cells = cells_of(path)
    assert [index for index, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", [])] == [0]
    lines = source(cells[0]).splitlines()
    names = []
    for line in lines:
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.Assign)
        assert isinstance(ast.literal_eval(statement.value), str | int | float)
        assert re.search(r"  # \w+", line)
        names.append(statement.targets[0].id)
    assert names == ["study", "preset", "data", "runs", "figures", "seed"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_second_code_cell_alone_builds_the_configuration(path):
    code = [source(cell) for cell in cells_of(path)]
    assert "config = build_config(study, preset, seed)" in code[1]
    assert "print(config.describe(" in code[1]  # the sections that this notebook uses
    assert [cell for cell in code[2:] if "build_config" in cell or "Config(" in cell] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_is_longer_than_a_screen(path):
    assert max(len(source(cell).splitlines()) for cell in cells_of(path)) <= 30


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_is_explained(path):
    """The sentences stand between the last figure and this one."""
    words = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            words += source(cell).split()
        elif "save_figure(" in source(cell):
            assert len(words) >= 20, source(cell)
            words = []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_below_the_cell_of_a_figure_stands_the_committed_one(path):
    """For those who read on GitHub, and run nothing."""
    cells = json.loads(path.read_text())["cells"]
    shown = 0
    for cell, below in zip(cells, [*cells[1:], {"source": []}], strict=True):
        for name in re.findall(r'save_figure\(.*?f?"([\w{}]+)", shows', source(cell), re.DOTALL):
            links = re.findall(r"\]\(\.\./figures/\w+/fig_(\w+)\.png\)", source(below))
            assert "committed-figure" in below["metadata"]["tags"], name
            assert [link for link in links if re.fullmatch(name.replace("{name}", r"\w+"), link)], name
            shown += 1
    assert shown == sum("save_figure(" in source(cell) for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_computes_by_hand_and_ends_with_exercises(path):
    """A hand-made step is compared with that of the library, and two or more exercises change one thing."""
    code = "\n".join(source(cell) for cell in cells_of(path))
    assert re.search(r"assert|\"by hand\": ", code)
    assert re.search(r"by[ _]hand", source(cells_of(path, "markdown")[-2]) + code, re.IGNORECASE)
    last = source(json.loads(path.read_text())["cells"][-1])
    assert last.startswith("## Exercises")
    assert len(re.findall(r"^\d\. \*\*", last, re.MULTILINE)) >= 2


# ------------------------------------------------------------------------------------------------ the rest


PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md", "figures/README.md"]


@pytest.mark.slow
@pytest.mark.processes
def test_the_tests_of_a_file_run_in_one_process(tmp_path):
    """Else two processes run every notebook, and set up every fixture of a file."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    for name in ("first", "second"):
        worker = f"def test_it(n):\n    open(r'{tmp_path}/{name}-' + os.environ['PYTEST_XDIST_WORKER'], 'w')\n"
        marks = "@pytest.mark.parametrize('n', range(8))\n"
        (tmp_path / f"test_{name}.py").write_text(f"import os\nimport pytest\n{marks}{worker}")
    command = [sys.executable, "-m", "pytest", "--numprocesses", "2", "--no-loadscope-reorder", str(tmp_path)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert sorted(path.name.partition("-")[0] for path in tmp_path.glob("*-gw*")) == ["first", "second"]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_and_shows_is_there(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r"(?:href|src)=\"([^\"#]+)\"", text)
    missing = [link for link in links if not link.startswith("http") and not ((ROOT / page).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_a_page_names_are_there(page):
    named = set(re.findall(r"python -m (sedm[\w.]*)", (ROOT / page).read_text()))
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


def test_settings_and_targets_that_the_pages_name_are_known(run):
    text = "\n".join((ROOT / page).read_text() for page in PAGES) + (ROOT / "Dockerfile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert set(re.findall(r"\bmake ([a-z-]+)", " ".join(re.findall(r"`[^`]*`|^make.*$", text, re.MULTILINE)))) <= set(
        targets
    )
    for line in re.findall(r"make reproduce((?: [A-Z]+=\S+)+)", text):
        assert {word.partition("=")[0] for word in line.split()} <= set(run.DEFAULTS)


def test_the_included_weights_are_those_of_the_table():
    table = (ROOT / "data" / "README.md").read_text()
    for path in sorted((ROOT / "data" / "models").rglob("*.safetensors")):
        name = path.relative_to(ROOT / "data" / "models").as_posix()
        assert f"| `{name}` | {hashlib.sha256(path.read_bytes()).hexdigest()} |" in table


def test_no_file_names_a_place_on_this_machine():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = [b"/" + b"work/", b"/" + b"home/", b"/" + b"root/", str(ROOT).encode()]
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(files) > 30
    contents = {path: path.read_bytes() for path in files if path.is_file()}
    assert [str(path) for path, content in contents.items() if any(place in content for place in places)] == []
