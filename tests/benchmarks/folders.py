"""Seconds and memory of listing, checking and translating folders of many small image files.

    python -m tests.benchmarks.folders [--files 100000] [--json folders.json]

Makes a folder of that many images of 64 px, every one with a mask in black and white, and a tenth of it, so that memory
can be seen to grow or not. Each task runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from . import tables

FILES_PER_GROUP = 500


def make_folder(folder: Path, n_files: int) -> None:
    """Write that many images, and as many masks of 0 and 255, in folders of their groups."""
    import numpy as np

    from sedm.data.pictures import encode

    random, (y, x) = np.random.default_rng(0), np.mgrid[: tables.SIZE, : tables.SIZE]
    images, masks = [], []
    for index in range(tables.N_PICTURES):
        slope = np.stack([2 * x + index, 3 * y, x + y], axis=-1)
        images.append(encode((slope + random.integers(0, 6, slope.shape)).astype(np.uint8))["bytes"])
        masks.append(encode((255 * ((x - 32) ** 2 + (y - 32) ** 2 < (index % 30) ** 2)).astype(np.uint8))["bytes"])
    for file in range(n_files):
        for kind, pictures in (("images", images), ("masks", masks)):
            path = folder / kind / f"case-{file // FILES_PER_GROUP}" / f"{file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pictures[file % tables.N_PICTURES])


def black_and_white():
    from sedm.data.source_format import SourceFormat

    return SourceFormat(classes={"ground": 0, "disc": 255})


def list_files(folder):
    from sedm.data.sources import load_table

    return load_table(folder)


def check_files(folder):
    from sedm.data.sources import find_source_faults

    assert list(find_source_faults(folder, black_and_white())) == []


def translate(folder):
    from sedm.data.sources import load_table

    return load_table(folder, black_and_white())


TASKS = {"list": [list_files], "list and check every pixel": [check_files], "list and translate masks": [translate]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000, help="images, each with a mask")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--table", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(tables.measure(TASKS[arguments.task], arguments.table)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'':30}{'images':>8}{'s':>9}{'CPU s':>9}{'own MiB':>9}{'mapped MiB':>12}")
        for n_files in sorted({max(arguments.files // 10, 1), arguments.files}):
            path = Path(folder) / str(n_files)
            make_folder(path, n_files)
            for task in TASKS:
                found = tables.run(task, path, Path(folder) / "cache", "tests.benchmarks.folders")
                results.append({"task": task, "images": n_files, **found})
                seconds = f"{found['seconds'][0]:9.1f}{found['cpu_seconds'][0]:9.1f}"
                print(f"{task:30}{n_files:8}{seconds}{found['own']:9.0f}{found['mapped']:12.0f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
