"""Training images a second on one process and on two, each with one thread and its own batch.

    python -m tests.benchmarks.scaling [--steps 30] [--rounds 2]

Each measurement is a fresh launch of `training` on random images, as torchrun does it; two threads in one process
are measured beside. Seconds a step come from the times in TensorBoard's event files, so starting up does not count.
Written to ``figures/benchmarks/scaling.json``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from sedm.config import Config, build_config
from sedm.data.patches import Patches

from .measure import save_results

LAUNCHES = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
SKIPPED = 5  # first steps, in which memory and kernels are made ready


def configuration(n_steps: int) -> Config:
    """`quick`, cut to a few steps and one checkpoint after the last."""
    config = build_config("tissue", "quick")
    training = replace(config.training, n_steps=n_steps, checkpoint_every=n_steps)
    return replace(config, training=training, sampling=replace(config.sampling, n_steps=1))


def work(folder: Path, n_steps: int) -> None:
    """One process of a launch: trains on random images."""
    from sedm.generator.training import train_model

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 3, 64, 64), dtype=torch.uint8, generator=generator)
    masks = torch.randint(3, (64, 64, 64), dtype=torch.uint8, generator=generator)
    groups = [f"patient-{row // 8}" for row in range(len(images))]
    patches = Patches(images, masks, groups, classes=("stroma", "epithelium", "lumen"))
    train_model(configuration(n_steps), patches, folder, held_out=(), progress=False)


def launch(n_processes: int, n_threads: int, n_steps: int) -> float:
    """Training images a second of all processes together."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={n_processes}", "-m"]
        command = [*launcher, "tests.benchmarks.scaling", "--worker", folder, "--steps", str(n_steps)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(n_threads)}
        subprocess.run([sys.executable, "-m", *command], env=environment, check=True)
        seconds = np.diff(step_times(Path(folder) / "tensorboard"))[SKIPPED:].tolist()
    return n_processes * configuration(n_steps).training.batch_size / median(seconds)


def step_times(folder: Path) -> list[float]:
    """When each step's loss was written, in seconds since 1970."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.wall_time for event in EventAccumulator(str(folder)).Reload().Scalars("training/loss")]


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", type=Path, help="for the launched processes")
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.steps)
        return
    speeds = {name: [] for name in LAUNCHES}
    for _ in range(given.rounds):
        for name, size in LAUNCHES.items():
            speeds[name].append(launch(*size, given.steps))
    one, threads, two = (median(values) for values in speeds.values())
    ratios = {"2 processes / 1 process": two / one, "2 processes / 2 threads": two / threads}
    print(ratios)
    print(save_results("scaling", {"images_a_second": speeds, "ratios": ratios}))


if __name__ == "__main__":
    main()
