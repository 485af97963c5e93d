"""Layouts for unannotated images: what a segmentation network says that was trained on the annotated ones."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from sedm.config import Config
from sedm.data.patches import Patches
from sedm.segmentation.segmenter import kept_segmenter, predict


def with_pseudo_layouts(
    patches: Patches, config: Config, n_classes: int, folder: str | Path
) -> tuple[Patches, Bool[Tensor, " n"]]:
    """What `sedm.generator.training.train_model` takes: (patches, which of them a person annotated).

    Where ``config.training.unannotated`` is "pseudo_layouts", every missing mask is predicted by a network that was
    trained on the masks there are; otherwise the patches come back as they are. Nothing else of the data is seen.

    Args:
        folder: keeps the network, which is trained once.

    Raises:
        ValueError: see `sedm.segmentation.segmenter.train_segmenter`.
    """
    annotated = patches.has_mask
    if config.training.unannotated != "pseudo_layouts" or annotated.all():
        return patches, annotated
    segmenter = kept_segmenter(Path(folder), "segmenter", patches, config.segmentation, n_classes, config.seed)
    predicted = predict(segmenter, patches.images)
    return patches._replace(masks=patches.masks.where(annotated[:, None, None], predicted)), annotated
