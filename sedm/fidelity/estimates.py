"""The rows of the fidelity table, one function a question: a value, its 95 % interval, and what it was measured on.

``compared`` holds the patches "generated" and "real", equal numbers of each group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from sedm.data.patches import Patches
from sedm.fidelity.class_contrast import (
    class_colour_distances,
    class_contrasts,
    contrast_distances,
    contrast_spread,
    share_lighter,
)
from sedm.fidelity.content import content_agreement, other_layouts
from sedm.fidelity.features import Extractor
from sedm.fidelity.memorisation import NearestTraining, closer_than_held_out
from sedm.fidelity.quality import N_NEIGHBOURS, frechet_distance, kernel_distance, precision_recall
from sedm.fidelity.stains import stain_angles
from sedm.fidelity.style import (
    colour_distances,
    colour_statistics,
    own_and_others,
    retrieve_groups,
    spread_between,
    spread_within,
)
from sedm.group_statistics import jackknife_groups, summarise_groups
from sedm.segmentation.networks import UNet
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import predict


class Estimate(NamedTuple):
    """A row of the table."""

    measure: str
    of: str  # "generated", "real", "chance" or "copy"
    value: float
    low: float  # of the 95 % interval, NaN where there is none
    high: float
    n_images: int
    n_groups: int  # that have a value
    measured_on: str


def estimate_quality(compared: dict[str, Patches], references: Patches, extractor: Extractor) -> Iterator[Estimate]:
    """Estimate how far images are from the references, as distributions."""
    measures = {
        "kernel_distance": kernel_distance,
        "frechet_distance": frechet_distance,
        "precision": lambda x, y: precision_recall(x, y)[0],
        "recall": lambda x, y: precision_recall(x, y)[1],
    }
    real, real_groups = extractor(references.images), np.array(references.groups)
    for of, patches in compared.items():
        features, groups = extractor(patches.images), np.array(patches.groups)
        names = sorted({*patches.groups, *references.groups})
        for measure, distance in measures.items():

            def of_kept(kept: Sequence[str], distance=distance, features=features, groups=groups) -> float:
                x, y = features[np.isin(groups, kept)], real[np.isin(real_groups, kept)]
                return distance(x, y) if min(len(x), len(y)) > N_NEIGHBOURS else math.nan

            value, *interval = jackknife_groups(of_kept, names)
            if measure in ("precision", "recall"):  # shares
                interval = np.clip(interval, 0, 1).tolist()
            yield Estimate(measure, of, value, *interval, len(groups), len(set(patches.groups)), extractor.name)


def estimate_layout(compared: dict[str, Patches], judge: UNet, seed: int) -> Iterator[Estimate]:
    """Estimate how well the judge finds the layouts, all foreground classes together and every class alone."""
    answers = {of: predict(judge, patches.images) for of, patches in compared.items()}
    answers["chance"] = answers["generated"]
    generated = compared["generated"]
    with_layouts = compared | {"chance": replace(generated, masks=other_layouts(generated.masks, seed))}
    columns = {"layout_iou": "mean_iou"} | {
        f"layout_iou_{name}": f"iou_{k}" for k, name in enumerate(generated.classes)
    }
    for of, patches in with_layouts.items():
        scores = score_groups(answers[of], patches).set_index("group")
        for measure, column in columns.items():
            yield _over_groups(measure, of, scores[column], len(patches), "the judge's answers", seed)


def estimate_style(compared: dict[str, Patches], references: Patches, seed: int) -> Iterator[Estimate]:
    """Estimate whether images have the colours of their group rather than those of others."""
    on, real, n_groups = "colour statistics", colour_statistics(references.images), len(set(references.groups))
    for of, patches in compared.items():
        n, colours = len(patches), colour_statistics(patches.images)
        ranks = retrieve_groups(colours, patches.groups, real, references.groups).set_index("group")["rank"]
        for k in (1, 5):
            yield _over_groups(f"retrieval_top{k}", of, (ranks <= k).groupby(level=0).mean(), n, on, seed)
            if of == "generated":
                expected = min(k, n_groups) / n_groups
                yield Estimate(f"retrieval_top{k}", "chance", expected, math.nan, math.nan, n, n_groups, on)
        distances = colour_distances(colours, patches.groups, real, references.groups)
        yield from _own_and_others("colour_distance", of, distances, n, "mean L*a*b*", seed)


def estimate_stains(compared: dict[str, Patches], references: Patches, seed: int) -> Iterator[Estimate]:
    """Estimate whether images have the stains of their group rather than those of others."""
    for of, patches in compared.items():
        tables = stain_angles(patches.images, patches.groups, references.images, references.groups)
        for stain, angles in tables.items():
            yield from _own_and_others(f"{stain}_angle", of, angles, len(patches), "stain vectors", seed)


def estimate_class_contrast(compared: dict[str, Patches], references: Patches, seed: int) -> Iterator[Estimate]:
    """Estimate whether each class looks in images as it does in their group, and as variously."""
    on = "mean RGB inside and outside of each class"
    for of, patches in compared.items():
        distances = own_and_others(class_colour_distances(patches, references))
        yield from _own_and_others("class_colour_distance", of, distances, len(patches), "mean L*a*b* of classes", seed)
    real_spread = contrast_spread(class_contrasts(references))
    for of, patches in compared.items():
        n, names, groups = len(patches), list(patches.by_group()), np.array(patches.groups)
        distances = own_and_others(contrast_distances(patches, references))
        yield from _own_and_others("class_contrast", of, distances, n, on, seed)
        contrasts = class_contrasts(patches)

        def of_kept(kept: Sequence[str], contrasts=contrasts, groups=groups) -> float:
            return contrast_spread(contrasts[np.isin(groups, kept)]) / real_spread

        yield Estimate("class_contrast_spread", of, *jackknife_groups(of_kept, names), n, len(names), on)

        def lighter_of_kept(kept: Sequence[str], contrasts=contrasts, groups=groups) -> float:
            return share_lighter(contrasts[np.isin(groups, kept)])

        value, *interval = jackknife_groups(lighter_of_kept, names)
        yield Estimate("class_lighter", of, value, *np.clip(interval, 0, 1).tolist(), n, len(names), on)


def estimate_content(
    generated: Patches,
    style_rows: Tensor,
    lenders: Patches,
    references: Patches,
    judge: UNet,
    seed: int,
) -> Iterator[Estimate]:
    """Estimate whether the judge sees the content of the style images."""
    lender_rows = style_rows.unique()
    copies = lenders.select(lender_rows)
    images = {"generated": (generated, style_rows), "copy": (copies, lender_rows[:, None])}
    for of, (patches, rows) in images.items():
        answer, n = predict(judge, patches.images), len(patches)
        kappa = content_agreement(answer, patches.groups, rows, lenders, references).dropna()
        kappa = kappa.assign(leakage=kappa["own"] - kappa["others"]).groupby("group").mean()
        scores = {("content_agreement", of): "own", ("content_leakage", of): "leakage"}
        if of == "generated":
            scores["content_agreement", "chance"] = "others"
        for (measure, whose), column in scores.items():
            yield _over_groups(measure, whose, kappa[column], n, "the judge's answers", seed)


def estimate_diversity(compared: dict[str, Patches], references: Patches, seed: int) -> Iterator[Estimate]:
    """Estimate how much colours vary, in standard deviations over the references."""
    on, scale = "colour statistics", colour_statistics(references.images).std(0) + 1e-12
    for of, patches in compared.items():
        colours, groups, n = colour_statistics(patches.images) / scale, patches.groups, len(patches)
        names, members = list(dict.fromkeys(groups)), np.array(groups)

        def of_kept(kept: Sequence[str], colours=colours, members=members) -> float:
            rows = np.isin(members, kept)
            return spread_between(colours[rows], members[rows].tolist())

        yield Estimate("spread_between", of, *jackknife_groups(of_kept, names), n, len(names), on)
        if of == "generated":
            shuffled = np.random.default_rng(seed).permutation(members).tolist()
            spread = spread_between(colours, shuffled)
            yield Estimate("spread_between", "chance", spread, math.nan, math.nan, n, len(names), on)
        yield _over_groups("spread_within", of, spread_within(colours, groups), n, on, seed)


def estimate_memorisation(
    generated: Patches,
    lenders: Patches,
    references: Patches,
    train: Patches,
    extractor: Extractor,
    seed: int,
) -> Iterator[Estimate]:
    """Estimate whether images are nearer to training images than held-out real ones are."""
    nearest = NearestTraining(train.images, extractor)
    held_out = nearest(references.images)
    for of, patches in {"generated": generated, "real": lenders}.items():
        table, n = nearest(patches.images), len(patches)
        for view, on in (("features", extractor.name), ("pixels", "1 − correlation of pixels")):
            distances = pd.Series(table[f"{view}_distance"].to_numpy(), patches.groups)
            yield _over_groups(f"nearest_{view}", of, distances.groupby(level=0).mean(), n, on, seed)
            closer, expected = closer_than_held_out(distances.to_numpy(), held_out[f"{view}_distance"].to_numpy())
            shares = pd.Series(closer, patches.groups).groupby(level=0).mean()
            yield _over_groups(f"copied_{view}", of, shares, n, on, seed)
            if of == "generated":
                yield Estimate(f"copied_{view}", "chance", expected, math.nan, math.nan, n, len(shares), on)


def _own_and_others(
    measure: str, of: str, distances: pd.DataFrame, n_images: int, on: str, seed: int
) -> Iterator[Estimate]:
    yield _over_groups(measure, of, distances["own"], n_images, on, seed)
    if of == "generated":
        yield _over_groups(measure, "chance", distances["others"], n_images, on, seed)


def _over_groups(measure: str, of: str, scores: pd.Series, n_images: int, on: str, seed: int) -> Estimate:
    if scores.isna().all():
        return Estimate(measure, of, math.nan, math.nan, math.nan, n_images, 0, on)
    summary = summarise_groups(scores, seed)
    interval = summary["ci_low"], summary["ci_high"]
    return Estimate(measure, of, summary["mean"], *interval, n_images, summary["n_groups"], on)
