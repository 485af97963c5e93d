"""The settings of the comparison: which ways to train a segmentation network, on what, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from sedm.config.checks import check_fraction, check_positive, known_name
from sedm.config.settings import LAYOUT_SOURCES, SegmentationConfig

CONTROLS = (  # need no generator
    "real",
    "colour_augmentation",
    "reinhard",
    "macenko",
    "reinhard_augmented",
    "pseudo_labels",
    "mean_teacher",
)
COMPARED = (
    *CONTROLS,
    "no_style",
    "shuffled_styles",
    "annotated_styles",
    "sedm",
    "sedm_filtered",
    "sedm_augmented",
    "sedm_mean_teacher",
    "sedm_pseudo_layouts",
    "sedm_pseudo_labels",
    "transductive",
    "all_annotations",
)


@dataclass(frozen=True, kw_only=True)
class ArmConfig(SegmentationConfig):
    """Which ways to train a segmentation network are compared (`sedm.experiments.arm_runs`), and with what settings.

    Strengths, weights and fractions were chosen on validation groups, each among four. Only the arms that they concern
    take them: an arm without random colours has a ``colour_jitter`` of 0.
    """

    compared: tuple[str, ...] = CONTROLS  # arms
    swept: tuple[str, ...] = ()  # settings of which several values are compared as well
    label_counts: tuple[int, ...] = ()  # of annotated groups, on the curve of the arms ``by_labels``
    by_labels: tuple[str, ...] = ("real", "colour_augmentation")
    also_annotated: int = 0  # groups, with which ``also_compared`` are compared once more; 0 = not at all
    also_compared: tuple[str, ...] = (
        "real",
        "colour_augmentation",
        "reinhard_augmented",
        "pseudo_labels",
        "sedm",
        "sedm_augmented",
        "sedm_pseudo_layouts",
    )
    longer: tuple[str, ...] = ()  # arms of sweeps over ``n_steps``: the method, then the controls it is compared with
    n_draws: int = 1  # of annotated groups
    n_seeds: int = 2  # repetitions of every arm
    n_images: int = 256  # synthetic ones, of each source
    layouts: str = "empirical"  # of generated images; LAYOUT_SOURCES
    colour_jitter: float = 0.2
    pseudo_label_fraction: float = 0.8  # ``synthetic_fraction`` of arms with pseudo-labels
    transfer_fraction: float = 0.8  # ``synthetic_fraction`` of arms with colour transfer
    consistency_weight: float = 0.1
    n_pretraining_steps: int = 0  # of one generator without any mask, where those of all draws start; 0 = no such start
    n_fine_tuning_steps: int = 0  # of a draw's generator after that

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "n_draws", "n_seeds", "n_images")
        check_fraction(self, "pseudo_label_fraction", "transfer_fraction")
        known_name("layouts", self.layouts, LAYOUT_SOURCES)
        if (self.n_pretraining_steps > 0) != (self.n_fine_tuning_steps > 0):
            raise ValueError(
                f"n_pretraining_steps={self.n_pretraining_steps} with n_fine_tuning_steps={self.n_fine_tuning_steps}; "
                "give both, or 0 for both to train the generator of each draw from its first weights"
            )
