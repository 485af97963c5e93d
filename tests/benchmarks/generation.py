"""Memory of short and long synthetic tables, and images a second on one process and on two.

    python -m tests.benchmarks.generation [--n-images 500 5000] [--n-speed 128] [--presets quick full] [--rounds 2]

Every measurement is a fresh launch of `generate`. The peak of memory is that of the whole process while it makes
n images with a tiny model, beyond what it held before. Speed is that of an untrained model of each preset on a
synthetic table of its own settings; one process of one thread, one of two threads and two of one thread take turns.
Written to ``figures/benchmarks/generation.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from sedm.config import Config, ModelConfig, SamplingConfig, build_config

from .measure import peak_memory, ratio, save_results

LAUNCHES = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


def tiny() -> Config:
    """A model so small that a table of thousands takes seconds."""
    config = build_config("tissue", "quick")
    sampling = SamplingConfig(n_steps=1, n_style_images=2)
    return replace(config, model=ModelConfig((8, 16), style_dim=8, style_channels=(8,)), sampling=sampling)


def make_table(config: Config, n_images: int, folder: Path) -> None:
    """A synthetic table of ``n_images``, by an untrained model, on layouts and styles that are random."""
    from sedm.generation.generate import generate_patches
    from sedm.generator.denoiser import build_model
    from sedm.generator.pipeline import SEDMPipeline
    from sedm.layouts import RandomFieldPrior
    from sedm.styles.bank import StyleBank

    size = config.data.image_size
    pipeline = SEDMPipeline.from_model(build_model(config.model, 3, size, seed=0).eval())
    masks = torch.arange(3).repeat_interleave(size).repeat(size)[: size * size].view(1, size, size).to(torch.uint8)
    prior = RandomFieldPrior.fit_masks(masks, ("stroma", "epithelium", "lumen"))
    embeddings = torch.randn(64, config.model.style_dim, generator=torch.Generator().manual_seed(0))
    bank = StyleBank(embeddings, [f"patient-{row // 8}" for row in range(64)], [str(row) for row in range(64)])
    generate_patches(pipeline, prior, bank, replace(config.sampling, n_images=n_images), 0, folder, progress=False)


def work(what: str, n_images: int, folder: Path) -> None:
    """One process of a launch; leaves what it measured in ``folder``, which a first small table warmed up."""
    config = tiny() if what == "memory" else build_config("tissue", what)
    make_table(config, config.sampling.micro_batch, folder / "warm")
    if what == "memory":
        found = peak_memory(lambda: make_table(config, n_images, folder / "table"))
    else:
        start = time.perf_counter()
        make_table(config, n_images, folder / "table")
        found = n_images / (time.perf_counter() - start)
    (folder / f"found-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))


def launch(what: str, n_images: int, n_processes: int = 1, n_threads: int = 1) -> float:
    """MiB ("memory") or images a second (a preset) of all processes together."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={n_processes}", "-m"]
        command = [*launcher, "tests.benchmarks.generation", "--worker", what, folder, "--n-images", str(n_images)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(n_threads)}
        environment["HF_DATASETS_CACHE"] = f"{folder}/cache"  # nothing is found there that an earlier launch left
        subprocess.run([sys.executable, "-m", *command], env=environment, check=True)
        return max(json.loads(path.read_text()) for path in Path(folder).glob("found-*.json"))


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.generation", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--n-images", type=int, nargs="+", default=[500, 5000], help="lengths of the tables, for memory"
    )
    parser.add_argument("--n-speed", type=int, default=128, help="images of each table whose speed is measured")
    parser.add_argument("--presets", nargs="*", default=["quick", "full"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", nargs=2, help="for the launched processes")
    given = parser.parse_args()
    if given.worker:
        work(given.worker[0], given.n_images[0], Path(given.worker[1]))
        return
    results = {"peak_mib": {n: launch("memory", n) for n in given.n_images}, "images_a_second": {}, "ratios": {}}
    for preset in given.presets:
        speeds = {name: [] for name in LAUNCHES}
        for _ in range(given.rounds):
            for name, size in LAUNCHES.items():
                speeds[name].append(launch(preset, given.n_speed, *size))
        one, threads, two = speeds.values()
        results["images_a_second"][preset] = speeds
        results["ratios"][preset] = {
            "2 processes / 1 process": ratio(two, one),
            "2 processes / 2 threads": ratio(two, threads),
            "minutes for 2,000 images": 2000 / 60 / max(map(median, speeds.values())),
        }
    print(results["peak_mib"], results["ratios"])
    print(save_results("generation", results))


if __name__ == "__main__":
    main()
