"""How a patch table of any size behaves: time to open it, memory to read it, batches a second.

    python -m tests.benchmarks.tables [--rows 100000] [--json tables.json]

Makes a table of 64 px patches (PNG, about 6 KB each) in a temporary folder, below 1 GB, and removes it. Every
measurement is a process of its own, with an empty cache of ``datasets`` unless it says otherwise. *Own* memory is
what the process cannot give back (RssAnon); *mapped* memory is file pages that the system takes back when it needs
them. Both are peaks above what the imports alone need.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

SIZE = 64  # px a side
CLASSES = ("ground", "disc")
N_PICTURES = 256  # different ones
PATCHES_PER_GROUP = 50
N_BATCHES, BATCH = 1000, 64
SUBSET = 10_000  # rows that are also read the in-memory way


def make_table(path: Path, n_rows: int) -> None:
    """A table of ``n_rows``, every second group unannotated, written in row groups."""
    import datasets
    import numpy as np

    from sedm.data.patch_table import encode, save_patches

    random, (y, x) = np.random.default_rng(0), np.mgrid[:SIZE, :SIZE]
    pictures, masks = [], []
    for index in range(N_PICTURES):
        slope = np.stack([2 * x + index, 3 * y, x + y], axis=-1)
        pictures.append(encode((slope + random.integers(0, 6, slope.shape)).astype(np.uint8)))
        masks.append(encode(((x - 32) ** 2 + (y - 32) ** 2 < (index % 30) ** 2).astype(np.uint8)))

    def rows():
        for row in range(n_rows):
            group = row // PATCHES_PER_GROUP
            mask = None if group % 2 else masks[row % N_PICTURES]
            yield {"image": pictures[row % N_PICTURES], "mask": mask, "group": f"case-{group}"}

    names = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "group": names})
    save_patches(datasets.IterableDataset.from_generator(rows, features=features), path)


# --------------------------------------------------------------------------- what is measured, by name


def open_stream(path):
    from sedm.data.patch_table import load_patches

    return next(iter(load_patches(path, streaming=True)))["image"].size


def open_copy(path):
    from sedm.data.patch_table import load_patches

    return load_patches(path)[-1]["image"].size


def read_stream(path):
    from sedm.data.patch_table import load_patches

    return sum(1 for _ in load_patches(path, streaming=True))


def decode_in_memory(path):
    import sedm.data.mapped_pixels
    from sedm.data.patch_table import load_patches

    sedm.data.mapped_pixels.MEMORY_LIMIT = 2**40
    return sedm.data.patches.Patches.from_table(load_patches(path, streaming=True), CLASSES)


def decode_mapped(path):
    from sedm.data.patch_table import load_patches
    from sedm.data.patches import Patches

    return Patches.from_table(load_patches(path, streaming=True), CLASSES, folder=Path(path).parent)


def draw_batches(patches):
    import torch

    generator = torch.Generator().manual_seed(0)
    for _ in range(N_BATCHES):
        patches.images[torch.randint(len(patches), (BATCH,), generator=generator)]


TASKS = {
    "open, streaming, and read one row": [open_stream],
    "open, copying into the cache, and read one row": [open_copy],
    "the same again (cache is there)": [open_copy],
    "read every row, streaming": [read_stream],
    f"decode, mapped + {N_BATCHES} batches of {BATCH}": [decode_mapped, draw_batches],
    f"decode, in memory + {N_BATCHES} batches of {BATCH}": [decode_in_memory, draw_batches],
}
IN_MEMORY = [task for task in TASKS if "in memory" in task]


def measure(steps: list, path: str) -> dict:
    """Seconds of each step on the table or folder, wall and CPU, and the peaks in MiB of both memories."""
    import datasets
    import torch  # noqa: F401

    import sedm.data.mapped_pixels
    import sedm.data.patch_table

    datasets.disable_progress_bars()
    sedm.data.table_rows.ROWS_WITHOUT_BAR = 10**9
    before, peak, ended = memory(), memory(), threading.Event()

    def watch():
        while not ended.wait(0.005):
            for kind, value in memory().items():
                peak[kind] = max(peak[kind], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result, clocks = path, [(time.perf_counter(), time.process_time())]
    for step in steps:
        result = step(result)
        clocks.append((time.perf_counter(), time.process_time()))
    ended.set()
    watcher.join()
    steps = [[end - start for start, end in zip(*pair, strict=True)] for pair in pairwise(clocks)]
    wall, cpu = zip(*steps, strict=True)
    return {"seconds": wall, "cpu_seconds": cpu, **{kind: peak[kind] - before[kind] for kind in before}}


def memory() -> dict[str, float]:
    """MiB of this process that are its own, and that are file pages."""
    with open("/proc/self/status") as file:
        values = dict(line.split(":", 1) for line in file)
    return {name: int(values[key].split()[0]) / 1024 for name, key in (("own", "RssAnon"), ("mapped", "RssFile"))}


def run(task: str, path: Path, cache: Path, module: str = "tests.benchmarks.tables") -> dict:
    """Measure a task in a process of its own, so that no other one has used its memory before."""
    environment = {**os.environ, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, "--task", task, "--table", str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="of the table")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--table", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(measure(TASKS[arguments.task], arguments.table)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'':50}{'rows':>8}{'s':>16}{'CPU s':>16}{'own MiB':>9}{'mapped MiB':>12}")
        for n_rows in sorted({min(SUBSET, arguments.rows), arguments.rows}):
            path = Path(folder) / str(n_rows) / "train.parquet"
            make_table(path, n_rows)
            for task in TASKS:
                if task in IN_MEMORY and n_rows > SUBSET:
                    continue
                found = run(task, path, Path(folder) / str(n_rows) / "cache")
                results.append({"task": task, "rows": n_rows, **found})
                wall, cpu = (" + ".join(f"{value:.2f}" for value in found[key]) for key in ("seconds", "cpu_seconds"))
                memories = f"{found['own']:9.0f}{found['mapped']:12.0f}"
                print(f"{task:50}{n_rows:8}{wall:>16}{cpu:>16}{memories}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
