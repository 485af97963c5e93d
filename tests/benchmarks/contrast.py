"""Styles whose classes were made paler or darker on purpose: do generated images follow?

    OMP_NUM_THREADS=1 python -m tests.benchmarks.contrast --data <ebhi> narrow=<folder> wide=<folder>

Another laboratory's glands may be as pale as their stroma. Here unseen validation cases are given such a look: the
optical density of the foreground is multiplied by one factor, that of the rest by another. Each image lends its style
to the layout of another one, and the class contrast (`sedm.fidelity.class_contrast`) of what is drawn is set beside
that of the changed images, and beside the paint that the style encoder reads off them. The truth is known, and no
image of another laboratory is needed. Written to ``figures/benchmarks/contrast_<study>.json``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch

from sedm.config import build_config
from sedm.data.augment import scale_class_density
from sedm.data.patches import Patches
from sedm.data.study_data import load_study
from sedm.fidelity.class_contrast import class_contrasts
from sedm.generator.paint import class_colours
from sedm.generator.pipeline import SEDMPipeline, sample_images
from sedm.runtime.hardware import pick_device

from .measure import save_results

N_IMAGES = 96
CHANGES = {"as they are": (0.0, 0.0), "paler": (-0.5, 0.2), "much paler": (-0.8, 0.3), "darker": (0.4, -0.2)}
"""Logarithms of the factors of the optical density of the foreground and of the rest."""


def change_classes(patches: Patches, foreground: float, rest: float) -> Patches:
    """Multiply the optical density of the foreground and of the rest by factors, given by their logarithms."""
    factors = torch.tensor([rest] + [foreground] * (patches.n_classes - 1)).exp()
    factors = factors.view(1, -1, 1).expand(len(patches), -1, 3)
    images = scale_class_density(patches.images / 255, patches.masks, factors)
    return replace(patches, images=(images * 255).round().to(torch.uint8))


def follow(pipeline: SEDMPipeline, lenders: Patches, config) -> dict:
    """Draw the layouts of other images in the styles of ``lenders``; compare class contrasts, in grey levels."""
    order = torch.randperm(len(lenders), generator=torch.Generator().manual_seed(0))
    layouts = lenders.masks[order]
    styles = pipeline.encode_styles(lenders.images[:, None])
    drawn = sample_images(pipeline, layouts, styles, config.sampling, seed=0, progress=False)
    colours = 127.5 * class_colours(styles)[..., :3].cpu()
    means = {
        "real": np.nanmean(class_contrasts(lenders)[:, 0], axis=0),
        "painted": (colours[:, 1] - colours[:, 0]).mean(0).numpy(),
        "drawn": np.nanmean(class_contrasts(replace(lenders, images=drawn, masks=layouts))[:, 0], axis=0),
    }
    distances = {what: float(np.linalg.norm(means[what] - means["real"])) for what in ("painted", "drawn")}
    return {"contrast": {what: mean.tolist() for what, mean in means.items()}, "distance": distances}


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.contrast", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER", help="saved pipelines of two classes")
    parser.add_argument("--study", default="ebhi")
    parser.add_argument("--data", required=True, help="folder of parquet files of the study")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for one in given.models:
        name, folder = one.split("=", 1)
        pipeline = SEDMPipeline.from_pretrained(folder).to(pick_device())
        config = build_config(given.study, "full")
        config = replace(config, data=replace(config.data, image_size=pipeline.denoiser.config.image_size))
        validation = load_study(config, given.data).validation.annotated()
        rows = torch.randperm(len(validation), generator=torch.Generator().manual_seed(0))[:N_IMAGES]
        chosen = validation.select(rows)
        results[name] = {what: follow(pipeline, change_classes(chosen, *by), config) for what, by in CHANGES.items()}
        for what, found in results[name].items():
            print(
                f"{name:12} {what:12}", {key: round(value, 1) for key, value in found["distance"].items()}, flush=True
            )
    print(save_results(f"contrast_{given.study}", {"n_images": N_IMAGES, "changes": CHANGES, "models": results}))


if __name__ == "__main__":
    main()
