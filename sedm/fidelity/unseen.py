"""Generators measured on groups that none of them was trained on.

Groups, layouts and noise are drawn alike at every call, and every number comes from `fidelity_table`, so that
generators compare with each other and with real images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sedm.config import Config
from sedm.data.patches import Patches
from sedm.fidelity.denoising import denoising_errors
from sedm.fidelity.features import Extractor
from sedm.fidelity.style import retrieve_one_left_out, split_halves
from sedm.fidelity.table import fidelity_table
from sedm.generator.pipeline import SEDMPipeline, sample_images
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.networks import UNet
from sedm.styles.bank import draw_style_rows

N_GROUPS, N_LAYOUTS = 12, 8  # every unseen group lends its style to as many layouts


class Unseen(NamedTuple):
    """Groups that no generator was trained on, and the two networks that measure images in their styles."""

    lenders: Patches  # half of each group's images; they lend the style
    references: Patches  # the other half, which generated images are compared with
    layouts: UInt8[Tensor, "n h w"]  # to be drawn: masks of other unseen groups
    groups: list[str]  # in the style of these
    judge: UNet  # trained on real images of yet other groups; tells layouts, and nothing else
    extractor: Extractor  # of the features for distances; not the judge, whose answers are a score of their own

    def style_rows(self, groups: Sequence[str], n_images: int) -> Int64[Tensor, "m n_images"]:
        """Draw the rows of ``lenders`` that lend the style of each item of ``groups``, as generation draws them.

        A group that stands there several times lends other images each time; a call with the same groups draws the
        same.
        """
        members = self.lenders.by_group()
        return torch.tensor(
            [
                draw_style_rows(members[group].tolist(), n_images, seeded_generator("unseen styles", 0, index))
                for index, group in enumerate(groups)
            ]
        )

    def measure(self, images: UInt8[Tensor, "n 3 h w"], **options) -> pd.DataFrame:
        """Measure images of ``layouts`` in the styles of ``groups``: `fidelity_table` with its keyword ``options``."""
        sources = ["generated"] * len(images)
        generated = Patches(images, self.layouts, self.groups, self.lenders.classes, mask_source=sources)
        return fidelity_table(generated, self.lenders, self.references, self.judge, self.extractor, **options)


def draw_unseen(test: Patches, judge: UNet, extractor: Extractor) -> Unseen:
    """Draw the ``N_GROUPS`` largest groups of ``test``, with ``N_LAYOUTS`` layouts for each.

    Raises:
        ValueError: fewer than two groups with two or more annotated images.
    """
    test = test.annotated()
    sizes = {name: len(rows) for name, rows in test.by_group().items()}
    names = sorted((name for name in sizes if sizes[name] > 1), key=lambda name: -sizes[name])[:N_GROUPS]
    if len(names) < 2:
        raise ValueError(f"{len(names)} test groups have two or more annotated images; two such groups are needed")
    chosen = test.of_groups(names)
    lenders, references = (chosen.select(rows) for rows in split_halves(chosen.groups, seed=0))
    rows = []
    for index, name in enumerate(names):
        others = torch.tensor([row for row, group in enumerate(chosen.groups) if group != name])
        order = torch.randperm(len(others), generator=seeded_generator("unseen layouts", 0, index))
        rows += [int(others[order[i % len(others)]]) for i in range(N_LAYOUTS)]
    groups = [name for name in names for _ in range(N_LAYOUTS)]
    return Unseen(lenders, references, chosen.masks[rows], groups, judge, extractor)


def draw_in_styles(pipeline: SEDMPipeline, config: Config, unseen: Unseen) -> UInt8[Tensor, "n 3 h w"]:
    """Draw ``unseen.layouts`` in the styles of ``unseen.groups``.

    A generator trained without styles (``style_sampling="none"``) gets the null style.
    """
    styles = None
    if config.training.style_sampling != "none":
        rows = unseen.style_rows(unseen.groups, config.sampling.n_style_images)
        styles = pipeline.encode_styles(unseen.lenders.images[rows])
    return sample_images(pipeline, unseen.layouts, styles, config.sampling, seed=0, progress=False)


def measure_generator(
    pipeline: SEDMPipeline, config: Config, unseen: Unseen, images: UInt8[Tensor, "n 3 h w"] | None = None
) -> dict[str, dict]:
    """Measure what a generator draws, how well it denoises, and what its style encoder knows of unseen groups.

    Args:
        images: that `draw_in_styles` drew already; they are drawn when left out.

    Returns:
        ``measures``: the "generated" values of `fidelity_table`; `denoising_errors`; and ``embedding_retrieval_top1``,
        the share of real images whose style is nearest to the mean style of the other images of their group.
        ``floors``: the values of "real" images and of "chance". ``measured_on``: the network or the statistics that
        each measure is taken on.
    """
    reference_styles = None
    if config.training.style_sampling != "none":
        rows = unseen.style_rows(unseen.references.groups, config.sampling.n_style_images)
        reference_styles = pipeline.encode_styles(unseen.lenders.images[rows])
    if images is None:
        images = draw_in_styles(pipeline, config, unseen)
    record = values_of(unseen.measure(images, stained=config.study.stained))
    embeddings = pipeline.embed(torch.cat([unseen.lenders.images, unseen.references.images]))
    styles_of_images = pipeline.styles_alone(embeddings).flatten(1)
    ranks = retrieve_one_left_out(styles_of_images.numpy(), unseen.lenders.groups + unseen.references.groups)["rank"]
    record["measures"]["embedding_retrieval_top1"] = float((ranks == 1).mean())
    record["measured_on"]["embedding_retrieval_top1"] = "the generator's own style encoder"
    record["measures"] |= denoising_errors(pipeline, unseen.references, reference_styles)
    return record


def values_of(table: pd.DataFrame) -> dict[str, dict]:
    """Write a `fidelity_table` as values to be stored: ``measures``, ``floors`` and ``measured_on``, by measure.

    >>> index = pd.MultiIndex.from_product([["kernel_distance"], ["generated", "real"]], names=["measure", "of"])
    >>> values_of(pd.DataFrame({"value": [0.4, 0.1], "measured_on": "a network"}, index=index))["floors"]
    {'real': {'kernel_distance': 0.1}, 'chance': {}}
    """
    values = table["value"].unstack("of").reindex(columns=["generated", "real", "chance"])
    return {
        "measures": values["generated"].to_dict(),
        "floors": {of: values[of].dropna().to_dict() for of in ("real", "chance")},
        "measured_on": table["measured_on"].groupby("measure").first().to_dict(),
    }
