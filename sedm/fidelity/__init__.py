"""How far generated images can be trusted: each question a module, each number beside what real images reach.

* ``quality``       distances from real images, precision and recall, on ``features`` of a named network,
* ``content``       does the image show its layout, and does it show its style image's content instead?
* ``style``         colours, and how much they vary; ``stains`` for tissue,
* ``memorisation``  is the image a copy of a training image?
* ``table``         all of it: ``estimates`` with their intervals, and floors at the same number of images; not
                    imported here, so that what needs one measure does not run again when a statistic changes.
"""

from sedm.fidelity.content import agreement_beyond_chance, content_agreement, other_layouts
from sedm.fidelity.features import Extractor, segmenter_extractor, stage_features
from sedm.fidelity.memorisation import NearestTraining, closer_than_held_out
from sedm.fidelity.quality import frechet_distance, kernel_distance, precision_recall
from sedm.fidelity.stains import stain_angles, stain_vectors
from sedm.fidelity.style import (
    STATISTICS,
    colour_distances,
    colour_statistics,
    intraclass_correlation,
    retrieve_groups,
    retrieve_one_left_out,
    split_halves,
    spread_between,
    spread_within,
    style_agreement,
    style_correlation,
)

SHORT_TITLES = {
    "retrieval_top1": "style: retrieval ↑",
    "colour_distance": "style: colour distance ↓",
    "layout_iou": "layout: IoU ↑",
    "kernel_distance": "kernel distance ↓",
}
"""The four measures that sweeps and ablations show; `table.MEASURES` says what all of them are."""

__all__ = [
    "SHORT_TITLES",
    "STATISTICS",
    "Extractor",
    "NearestTraining",
    "agreement_beyond_chance",
    "closer_than_held_out",
    "colour_distances",
    "colour_statistics",
    "content_agreement",
    "frechet_distance",
    "intraclass_correlation",
    "kernel_distance",
    "other_layouts",
    "precision_recall",
    "retrieve_groups",
    "retrieve_one_left_out",
    "segmenter_extractor",
    "split_halves",
    "spread_between",
    "spread_within",
    "stage_features",
    "stain_angles",
    "stain_vectors",
    "style_agreement",
    "style_correlation",
]
