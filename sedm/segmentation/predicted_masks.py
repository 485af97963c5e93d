"""Predicted masks: what a segmentation network says of unannotated images, for a generator to learn layouts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sedm.config import Config
from sedm.data.patches import Patches
from sedm.segmentation.segmenter import kept_segmenter, predict


def with_predicted_masks(patches: Patches, config: Config, folder: str | Path) -> Patches:
    """Predict every missing mask with a network that is trained on the masks there are.

    Where ``config.training.unannotated`` is not "predicted_masks", or no mask is missing, the patches come back as
    they are. Nothing else of the data is seen.

    Args:
        folder: keeps the network, which is trained once.

    Returns:
        The same images in the same order; ``mask_source`` says which masks are predicted.

    Raises:
        ValueError: see `sedm.segmentation.segmenter.train_segmenter`.
    """
    has_mask = patches.has_mask
    if config.training.unannotated != "predicted_masks" or has_mask.all():
        return patches
    segmenter = kept_segmenter(Path(folder), "segmenter", patches, config.segmentation, config.seed)
    predictions = predict(segmenter, patches.images)
    return replace(
        patches,
        masks=patches.masks.where(has_mask[:, None, None], predictions),
        mask_source=["predicted" if source == "none" else source for source in patches.mask_source],
    )
