"""Styles of another laboratory that the generator never saw: does each class take the look that it has there?

    OMP_NUM_THREADS=1 python -m tests.benchmarks.laboratory --model ebhi --data <ebhi> --other <glas>/source.parquet

Patients of another laboratory lend their styles at sampling alone; masks of their other patients are the layouts. What
is measured is all that `fidelity_table` tells, and the class contrast as it was first seen: the mean over images of the
foreground's mean colour less that of the rest, its distance from the real one, and its standard deviation over images.
The judge of layouts is trained on all training masks of the model's own laboratory. Written to
``figures/benchmarks/laboratory_<model>.json``; no image of the other laboratory leaves the machine.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sedm.config import build_config
from sedm.data.patch_table import load_patches
from sedm.data.patches import Patches
from sedm.data.study_data import load_study
from sedm.fidelity import segmenter_extractor
from sedm.fidelity.class_contrast import class_contrasts
from sedm.fidelity.unseen import Unseen, draw_in_styles, draw_unseen, measure_generator
from sedm.runtime.hardware import pick_device
from sedm.segmentation.segmenter import kept_segmenter
from sedm.sharing.pretrained import load_pretrained

from .measure import save_results


def contrast_of(patches: Patches) -> dict[str, list[float]]:
    """Summarise the class contrast over images: mean and standard deviation in grey levels of red, green and blue."""
    contrasts = class_contrasts(patches)[:, 0]
    return {"mean": np.nanmean(contrasts, axis=0).tolist(), "sd": np.nanstd(contrasts, axis=0, ddof=1).tolist()}


def compare_contrasts(images: UInt8[Tensor, "n 3 h w"], unseen: Unseen) -> dict:
    """Set the class contrast of images of ``unseen.layouts`` beside the real one."""
    sources = ["generated"] * len(images)
    generated = Patches(images, unseen.layouts, unseen.groups, unseen.lenders.classes, mask_source=sources)
    ours, real = contrast_of(generated), contrast_of(unseen.references)
    distance = float(np.linalg.norm(np.subtract(ours["mean"], real["mean"])))
    spread = float(np.mean(ours["sd"]) / np.mean(real["sd"]))
    return {"generated": ours, "real": real, "distance": distance, "spread_ratio": spread}


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.laboratory", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ebhi", help="a shipped model, or a folder with one")
    parser.add_argument("--study", default="ebhi", help="that it was trained on")
    parser.add_argument("--data", required=True, help="folder of parquet files of the study")
    parser.add_argument("--other", type=Path, required=True, help="parquet file of the other laboratory")
    parser.add_argument("--group-column", default="case", help="of the other laboratory")
    parser.add_argument("--runs", type=Path, default=Path("data/runs/laboratory"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    pretrained = load_pretrained(given.model)
    config = build_config(given.study, "full")
    config = replace(config, data=replace(config.data, image_size=pretrained.image_size))
    data = load_study(config, given.data)
    subset = data.label_subset(config.data.n_annotated_groups, seed=0)
    folder = given.runs / f"{given.study}_{pretrained.image_size}"
    judge = kept_segmenter(folder, "judge", data.train, config.segmentation, seed=0)
    segmenter = kept_segmenter(folder, "segmenter", subset, config.segmentation, seed=0)
    extractor = segmenter_extractor(segmenter, "the annotated training images")
    other = Patches.from_table(
        load_patches(given.other, group_column=given.group_column), data.train.classes, pretrained.image_size
    )
    unseen = draw_unseen(other, judge, extractor)
    pipeline = pretrained.pipeline.to(pick_device())
    images = draw_in_styles(pipeline, config, unseen)
    record = measure_generator(pipeline, config, unseen, images)
    contrast = compare_contrasts(images, unseen)
    results = {"model": pretrained.name, "image_size": pretrained.image_size, "n_groups": len(set(unseen.groups))}
    print(save_results(f"laboratory_{Path(given.model).name}", results | {"contrast": contrast, **record}))
    print(contrast)
    shown = ("kernel_distance", "recall", "layout_iou", "retrieval_top1", "haematoxylin_angle", "class_contrast")
    for name in (*shown, "class_contrast_spread", "class_lighter"):
        real = record["floors"]["real"].get(name, float("nan"))
        print(f"{name:24} {record['measures'][name]:8.3f}  real {real:8.3f}")


if __name__ == "__main__":
    main()
