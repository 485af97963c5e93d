"""The one table: how far a set of generated images is to be trusted, each number beside what real images reach."""

from __future__ import annotations

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from sedm.data.patches import Patches
from sedm.fidelity.estimates import (
    estimate_class_contrast,
    estimate_content,
    estimate_diversity,
    estimate_layout,
    estimate_memorisation,
    estimate_quality,
    estimate_stains,
    estimate_style,
)
from sedm.fidelity.features import Extractor
from sedm.segmentation.networks import UNet

MEASURES = {
    "kernel_distance": "kernel distance from real images ↓",
    "frechet_distance": "Fréchet distance from real images ↓",
    "precision": "precision: generated images among real ones ↑",
    "recall": "recall: real images among generated ones ↑",
    "layout_iou": "layout: foreground IoU of the judge ↑",
    "retrieval_top1": "style: own group is the nearest of all ↑",
    "retrieval_top5": "style: own group is among the nearest five ↑",
    "colour_distance": "style: difference of mean colours, CIE 1976 ↓",
    "haematoxylin_angle": "style: haematoxylin, degrees ↓",
    "eosin_angle": "style: eosin, degrees ↓",
    "class_colour_distance": "style by class: difference of mean colours of a class, CIE 1976 ↓",
    "class_contrast": "style by class: difference of class contrast, grey levels ↓",
    "class_contrast_spread": "style by class: spread of class contrast over images, 1 as real",
    "class_lighter": "style by class: images whose class is lighter than the rest, as real",
    "content_agreement": "content: κ with masks of the style images",
    "content_leakage": "content: that κ, less the one with others of the group ↓",
    "spread_between": "diversity: colour distance between groups, as real",
    "spread_within": "diversity: colour distance within a group, as real",
    "nearest_features": "memorisation: distance to training images by features, as real",
    "nearest_pixels": "memorisation: distance to training images by pixels, as real",
    "copied_features": "memorisation: closer by features than held-out images ↓",
    "copied_pixels": "memorisation: closer by pixels than held-out images ↓",
}
"""What the rows of the table say, and which way is better; ``layout_iou_<class>`` are the classes one by one."""

OF = ("generated", "real", "chance", "copy")


def fidelity_table(
    generated: Patches,
    lenders: Patches,
    references: Patches,
    judge: UNet,
    extractor: Extractor,
    *,
    style_rows: Int[Tensor, "n k"] | None = None,
    train: Patches | None = None,
    stained: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure generated images: one row a number, indexed by (measure, of), with its interval and what it is taken on.

    Columns: ``value, low, high, n_images, n_groups, measured_on``. This is the only place where images are measured:
    whatever else tells a number of these names takes it from here.

    ``MEASURES`` says what the measures are. ``of`` is "generated"; "real", the same of ``lenders``, which is the best
    that can be asked for; "chance", what images reach that do not know of their layout or style; and for the content
    of style images "copy", what a copy of the style image would reach.

    Scores are means over groups, so that none counts for more because it has more images. Except for memorisation,
    "generated" and "real" are measured on equal numbers of images, the first ones of each group, because distances,
    precision, recall and spread depend on them. Copies may be rare, so they are looked for among all generated images;
    what counts as near is fixed by ``references`` (`closer_than_held_out`). Distances are on features of ``extractor``,
    whose name stands in ``measured_on``. It should not be the judge: two scores of one network look like two opinions.

    Intervals are 95 %, over groups. Those of scores that are means over groups are bootstrapped, which with few groups
    is too narrow (`summarise_groups`); the others are jackknifed (`jackknife_groups`). NaN where there
    is none, or where there are too few images.

    Source: of each measure, its own function; a group as the unit that is counted, Altman & Bland 1997, "Units of
    analysis", doi:10.1136/bmj.314.7098.1874.

    Args:
        generated: masks are the layouts that were asked for, groups those that lent the style.
        lenders: real annotated images of groups that the generator never saw.
        references: other real annotated images of these groups, which are compared with. More groups make retrieval
            harder.
        judge: a segmentation network that was trained on the real images of yet other groups.
        extractor: of the features that distances are measured on.
        style_rows: rows of ``lenders`` that lent the style of each generated image; without them, content is left out.
        train: all that the generator was trained on; without it, memorisation is left out.
        stained: whether images show haematoxylin and eosin.
        seed: of shuffled layouts and groups, and of the bootstrap.

    Raises:
        ValueError: a generated group without lenders or references, fewer than two groups, images of several sizes,
            rows that ``lenders`` does not have, a generated image without a layout, layouts that are all the same,
            patches or a judge of other classes, or a held-out image in ``train``.

    >>> import torch
    >>> from sedm.fidelity.features import segmenter_extractor
    >>> images = torch.randint(256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    >>> masks = (images[:, 0] > 127).to(torch.uint8)
    >>> patches = Patches(images, masks, list("abab") * 6, classes=("background", "flower"))
    >>> generated, lenders, references, train = (patches.select(range(i, i + 6)) for i in (0, 6, 12, 18))
    >>> judge = UNet(2, (8, 16))
    >>> extractor = segmenter_extractor(judge, "nothing")
    >>> style_rows = torch.tensor([[0, 2], [1, 3]] * 3)
    >>> table = fidelity_table(
    ...     generated, lenders, references, judge, extractor, style_rows=style_rows, train=train
    ... )
    >>> table.loc["retrieval_top1", "value"].index.tolist(), table.loc[("retrieval_top1", "chance"), "value"]
    (['generated', 'real', 'chance'], np.float64(0.5))
    """
    _check(generated, lenders, references, judge, style_rows, train)
    rows, real_rows = _equal_rows(generated, lenders)
    compared = {"generated": generated.select(rows), "real": lenders.select(real_rows)}
    estimates = [
        *estimate_quality(compared, references, extractor),
        *estimate_layout(compared, judge, seed),
        *estimate_style(compared, references, seed),
        *(estimate_stains(compared, references, seed) if stained else ()),
        *estimate_class_contrast(compared, references, seed),
    ]
    if style_rows is not None:
        estimates += estimate_content(compared["generated"], style_rows[rows], lenders, references, judge, seed)
    estimates += estimate_diversity(compared, references, seed)
    if train is not None:
        estimates += estimate_memorisation(generated, lenders, references, train, extractor, seed)
    order = list(dict.fromkeys(estimate.measure for estimate in estimates))
    estimates.sort(key=lambda estimate: (order.index(estimate.measure), OF.index(estimate.of)))
    return pd.DataFrame(estimates).set_index(["measure", "of"])


def _equal_rows(first: Patches, second: Patches) -> tuple[list[int], list[int]]:
    """List rows of both with equal numbers of each group: the first ones of it."""
    rows, other_rows = first.by_group(), second.by_group()
    n_shared = {name: min(len(rows[name]), len(other_rows[name])) for name in rows}
    return tuple(
        [int(row) for name, n in n_shared.items() for row in members[name][:n]] for members in (rows, other_rows)
    )


def _check(
    generated: Patches,
    lenders: Patches,
    references: Patches,
    judge: UNet,
    style_rows: Tensor | None,
    train: Patches | None,
) -> None:
    for what, patches in {"lenders": lenders, "references": references}.items():
        missing = sorted(set(generated.groups) - set(patches.groups))
        if missing:
            raise ValueError(f"images were generated in the style of {missing[0]!r}, of which there are no {what}")
    n_groups = len(set(generated.groups))
    if n_groups < 2:
        raise ValueError(f"images of {n_groups} groups were generated; two or more are needed to compare styles")
    tables = [generated, lenders, references, *([] if train is None else [train])]
    sizes = sorted({tuple(patches.images.shape[2:]) for patches in tables})
    if len(sizes) > 1:
        raise ValueError(f"images of sizes {', '.join(map(str, sizes))}; decode all tables at one size")
    n, n_lenders = len(generated), len(lenders)
    if style_rows is not None and (
        style_rows.ndim != 2
        or style_rows.is_floating_point()
        or len(style_rows) != n
        or not ((style_rows >= 0) & (style_rows < n_lenders)).all()
    ):
        raise ValueError(f"style_rows must be rows (n, k) of the {n_lenders} lenders, for each of {n} generated images")
    for what, patches in {"lenders": lenders, "references": references}.items():
        if patches.classes != generated.classes:
            raise ValueError(
                f"{what} of the classes {', '.join(patches.classes)}, generated images of "
                f"{', '.join(generated.classes)}; take all from one study"
            )
        if "predicted" in patches.mask_source:
            row = patches.mask_source.index("predicted")
            raise ValueError(f"{what}: the mask of row {row} is predicted; compare with masks that people made")
    if not generated.has_mask.all():
        row = int((~generated.has_mask).nonzero()[0])
        raise ValueError(f"generated image {row} has no mask; give the layout that it was made for")
    if (generated.masks == generated.masks[:1]).all():
        raise ValueError("all layouts are the same; two or more are needed to tell what a wrong one scores")
    n_answers = judge.head.out_channels
    if n_answers != generated.n_classes:
        raise ValueError(
            f"the judge tells {n_answers} classes apart, there are {generated.n_classes}; train it on this study"
        )
    trained_on = {} if train is None else {image.numpy().tobytes(): row for row, image in enumerate(train.images)}
    for what, patches in {"lender": lenders, "reference": references}.items():
        for row, image in enumerate(patches.images):
            training_row = trained_on.get(image.numpy().tobytes())
            if training_row is not None:
                raise ValueError(
                    f"{what} {row} is training image {training_row}; held-out images must not be trained on"
                )
