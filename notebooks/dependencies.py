"""What a notebook depends on: its code cells, and the modules of ``sedm`` that they import."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@cache
def code_hash(notebook: str | Path) -> str:
    """Hash what a notebook does: its code cells and the modules they import, not the text between them."""
    code = [*code_of(notebook), *(Path(path).read_text() for path in modules_of(notebook))]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:12]


def code_of(notebook: str | Path) -> list[str]:
    """Read the code cells of a notebook."""
    cells = json.loads(Path(notebook).read_text())["cells"]  # nbformat takes seconds to import
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def modules_of(notebook: str | Path) -> list[str]:
    """List the files of ``sedm`` that a notebook imports, directly or through each other."""
    waiting = list(imported_modules("\n".join(code_of(notebook)), package=""))
    files = set()
    while waiting:
        name = waiting.pop()
        place = ROOT.joinpath(*name.split("."))
        for path, package in ((place.with_suffix(".py"), name.rpartition(".")[0]), (place / "__init__.py", name)):
            if path not in files and path.is_file():
                files.add(path)
                waiting += imported_modules(path.read_text(), package)
    return sorted(str(path) for path in files)


@cache  # most notebooks import the same modules
def imported_modules(code: str, package: str) -> list[str]:
    """List the dotted names that a piece of code imports from ``sedm``, imports inside functions included.

    Args:
        package: where the code lives, which relative imports start from.

    >>> imported_modules("from .patches import Patches", package="sedm.data")
    ['sedm.data.patches', 'sedm.data.patches.Patches']
    """
    names = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "sedm"]
