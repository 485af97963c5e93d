"""How long 10,000 layouts take on one core: ``python tests/benchmarks/layouts.py [n]``, by hand, on a quiet machine.

The bound is 30 s for the empirical and the random-field prior at 128 px. Processor time is reported beside a plain
nearest-neighbour warp of the masks, measured in turn with them in the same run.
"""

import sys
import time

import torch

from sedm.data.augment import AffineRange, warp
from sedm.data.drawn.tissue import CLASSES, make_tissue
from sedm.data.patches import Patches
from sedm.layouts import EmpiricalPrior, RandomFieldPrior
from sedm.runtime.seeds import seeded_generator

SIZE, ROUNDS = 128, 5


def main(n: int) -> None:
    torch.set_num_threads(1)
    masks = Patches.from_table(make_tissue(6, 8, image_size=SIZE), CLASSES).masks
    kinds = {"empirical": EmpiricalPrior, "random field": RandomFieldPrior}
    priors = {name: kind.fit_masks(masks, CLASSES) for name, kind in kinds.items()}
    composition = {"stroma": 0.6, "epithelium": 0.3, "lumen": 0.1}

    def warp_masks(n, first):
        for index in range(first, first + n):
            generator = seeded_generator("layout", 0, index)
            warp(masks[index % len(masks)][None], *AffineRange().draw((SIZE, SIZE), generator), mode="nearest")

    tasks = {"plain warp": warp_masks}
    for name, prior in priors.items():
        tasks[name] = lambda n, first, prior=prior: prior.sample(n, seed=0, first=first)
        tasks[f"{name}, wished"] = lambda n, first, prior=prior: prior.sample(n, composition, seed=0, first=first)
    seconds = dict.fromkeys(tasks, 0.0)
    for task in tasks.values():
        task(100, 0)  # what is made once, such as spectra, is not counted
    for turn in range(ROUNDS):
        for name, task in tasks.items():
            start = time.process_time()
            task(n // ROUNDS, turn * (n // ROUNDS))
            seconds[name] += time.process_time() - start
    print(f"{n} layouts of {SIZE} px, one core")
    for name, total in seconds.items():
        print(f"{name:22} {total:7.1f} s  {total / seconds['plain warp']:5.2f} × plain warp")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
