"""Which arms there are, and the runs that come of them.

An *arm* is a way to train a segmentation network; a *run* is one arm for one label subset and one seed of the network.
`sedm.experiments.arm_runs` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sedm.config import LAYOUT_SOURCES, Config, known_name
from sedm.experiments.subsets import NEVER_SEEN, STYLES, TRANSFERS


@dataclass(frozen=True)
class Arm:
    """One way to train a segmentation network; every arm also flips and turns its images."""

    kind: str  # "control" (needs no generator), "one part missing", "SEDM", or "sees more" than others may
    synthetic: str = ""  # pairs that are added: a colour transfer of TRANSFERS, or generated in STYLES
    confidence: float = 1.0  # of a network in another class, above which it makes pixels of the layout unknown
    pseudo_labels: bool = False  # unannotated images are added with predicted masks, as the generator is given them
    share: float = 1.0  # of the synthetic pairs that is used
    augmented: bool = False  # random colours, as strong as ``arms.colour_jitter``
    unannotated: bool = False  # a teacher says what the unannotated images show
    rounds: int = 1  # of training, each with masks that the network of the round before predicts
    adaptation: str = ""  # to each tested group, by its images alone: "batch_statistics", or a colour transfer
    all_masks: bool = False  # of the training groups, instead of those of the label subset
    changes: Mapping[str, Mapping] = field(default_factory=dict)  # to the settings, by section

    @property
    def uses_subset_generator(self) -> bool:
        """Whether its images come from the generator of the label subset, which has seen the lenders."""
        return self.synthetic in STYLES and self.synthetic not in NEVER_SEEN


UNIMATCH = {"arms": {"consistency": "unimatch", "consistency_weight": 1.0}}
CLASS_COLOURS = {"arms": {"class_jitter": 0.4}}  # as the networks that predict masks for the generator
EXTRAPOLATED = {"sampling": {"n_mixed_groups": 2, "extrapolation": 1.0}}
ARMS = {
    "real": Arm("control"),
    "colour_augmentation": Arm("control", augmented=True),
    "reinhard": Arm("control", "reinhard"),
    "macenko": Arm("control", "macenko"),
    "reinhard_augmented": Arm("control", "reinhard", augmented=True),
    "macenko_augmented": Arm("control", "macenko", augmented=True),
    "fourier": Arm("control", "fourier"),
    "fourier_augmented": Arm("control", "fourier", augmented=True),
    "pseudo_labels": Arm("control", pseudo_labels=True, augmented=True),
    "mean_teacher": Arm("control", unannotated=True, augmented=True),
    "stain_augmentation": Arm("control", changes={"arms": {"stain_jitter": 0.1}}),
    "class_augmentation": Arm("control", augmented=True, changes=CLASS_COLOURS),
    "batch_statistics": Arm("control", augmented=True, adaptation="batch_statistics"),
    "normalised_tests": Arm("control", augmented=True, adaptation="reinhard"),
    "self_training": Arm("control", pseudo_labels=True, augmented=True, rounds=3),
    "unimatch": Arm("control", unannotated=True, augmented=True, changes=UNIMATCH),
    "no_style": Arm("one part missing", "none"),
    "shuffled_styles": Arm("one part missing", "shuffled"),
    "annotated_styles": Arm("one part missing", "annotated"),
    "sedm": Arm("SEDM", "unannotated"),
    "sedm_filtered": Arm("SEDM", "unannotated", changes={"sampling": {"filter_percentile": 20.0}}),
    "sedm_ignoring": Arm("SEDM", "unannotated", augmented=True, confidence=0.95),
    "sedm_augmented": Arm("SEDM", "unannotated", augmented=True),
    "sedm_class_augmentation": Arm("SEDM", "unannotated", augmented=True, changes=CLASS_COLOURS),
    "sedm_zero_shot": Arm("SEDM", "zero_shot", augmented=True),
    "sedm_extrapolated": Arm("SEDM", "extrapolated", augmented=True, changes=EXTRAPOLATED),
    "sedm_mean_teacher": Arm("SEDM", "unannotated", augmented=True, unannotated=True),
    "sedm_unimatch": Arm("SEDM", "unannotated", unannotated=True, augmented=True, changes=UNIMATCH),
    "sedm_pseudo_layouts": Arm("SEDM", "unannotated", augmented=True, changes={"arms": {"layouts": "predicted_masks"}}),
    "sedm_pseudo_labels": Arm("SEDM", "unannotated", pseudo_labels=True, augmented=True),
    "transductive": Arm("sees more", "transductive", augmented=True),
    "all_annotations": Arm("sees more", augmented=True, all_masks=True),
}
SWEPT = {  # setting → value → the arm with this value, all else alike
    "colour_jitter": {
        value: Arm("control", changes={"arms": {"colour_jitter": value}}) for value in (0.1, 0.2, 0.3, 0.4)
    },
    "synthetic_fraction": {
        value: replace(ARMS["sedm_augmented"], changes={"arms": {"synthetic_fraction": value}})
        for value in (0.2, 0.4, 0.6, 0.8)
    },
    "stain_jitter": {
        value: Arm("control", changes={"arms": {"stain_jitter": value}}) for value in (0.05, 0.1, 0.2, 0.3)
    },
    "pseudo_label_fraction": {
        value: replace(ARMS["pseudo_labels"], changes={"arms": {"synthetic_fraction": value}})
        for value in (0.2, 0.4, 0.6, 0.8)
    },
    "transfer_fraction": {
        value: replace(ARMS["reinhard_augmented"], changes={"arms": {"synthetic_fraction": value}})
        for value in (0.2, 0.4, 0.6, 0.8)
    },
    "consistency_weight": {
        value: replace(ARMS["mean_teacher"], changes={"arms": {"consistency_weight": value}})
        for value in (0.1, 0.3, 1.0, 3.0)
    },
    "share": {value: replace(ARMS["sedm_augmented"], share=value) for value in (0.125, 0.25, 0.5, 1.0)},
    "layouts": {
        value: replace(ARMS["sedm_augmented"], changes={"arms": {"layouts": value}}) for value in LAYOUT_SOURCES
    },
    "n_steps": {value: replace(ARMS["sedm_augmented"], changes={"arms": {"n_steps": value}}) for value in (400, 1200)},
    "n_steps_of_transfer": {
        value: replace(ARMS["reinhard_augmented"], changes={"arms": {"n_steps": value}}) for value in (400, 1200)
    },
    "n_steps_of_pseudo_labels": {
        value: replace(ARMS["pseudo_labels"], changes={"arms": {"n_steps": value}}) for value in (400, 1200)
    },
}
SWEEPS = {  # setting → value → what the arm is called
    setting: {value: f"{setting}_{value}".replace(" ", "_") for value in arms} for setting, arms in SWEPT.items()
}
EVERY_ARM = ARMS | {SWEEPS[setting][value]: arm for setting, arms in SWEPT.items() for value, arm in arms.items()}


class ArmRun(NamedTuple):
    """One arm for one label subset and one seed of the network, which is that of ``config``."""

    arm: str
    config: Config
    draw: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.arm}-n{self.config.data.n_annotated_groups}-draw{self.draw}-seed{self.config.seed}"


def list_arm_runs(
    baseline: Config,
    arms: Sequence[str],
    n_annotated: Sequence[int] | None = None,
    draws: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[ArmRun]:
    """List every arm for every count of annotated groups, label subset and seed, those of the first seed first.

    What sees all masks is there once a seed: it depends neither on the subset nor on how many groups are annotated, and
    its run is named after those of ``baseline``.

    Args:
        n_annotated: counts of annotated groups; that of ``baseline`` when left out.
        draws: numbers of label subsets; as many as ``baseline`` asks for when left out, from its seed on.
        seeds: of the networks; as many as ``baseline`` asks for when left out.

    Raises:
        ValueError: an unknown arm.

    >>> from sedm.config import build_config
    >>> [run.name for run in list_arm_runs(build_config("tissue", "smoke"), ["real", "sedm"])]
    ['real-n2-draw0-seed0', 'sedm-n2-draw0-seed0']
    """
    n_annotated = n_annotated or [baseline.data.n_annotated_groups]
    draws = draws or range(baseline.seed, baseline.seed + baseline.arms.n_draws)
    seeds = range(baseline.arms.n_seeds) if seeds is None else seeds
    runs = {}
    for seed in seeds:
        for n, draw in ((n, draw) for n in n_annotated for draw in draws):
            for name in arms:
                arm = EVERY_ARM[known_name("arm", name, EVERY_ARM)]
                where = (baseline.data.n_annotated_groups, baseline.seed) if arm.all_masks else (n, draw)
                run = ArmRun(name, arm_config(baseline, arm, where[0], seed), where[1])
                runs.setdefault(run.name, run)
    return list(runs.values())


def arm_config(baseline: Config, arm: Arm, n_annotated: int, seed: int) -> Config:
    """Build the settings of one run; its network is trained as their section ``arms`` says."""
    arms = baseline.arms
    fraction = arms.pseudo_label_fraction if arm.pseudo_labels else 0.0
    if arm.synthetic:
        fraction = arms.transfer_fraction if arm.synthetic in TRANSFERS else arms.synthetic_fraction
    network = {
        "synthetic_fraction": fraction,
        "colour_jitter": arms.colour_jitter if arm.augmented else 0.0,
        "consistency_weight": arms.consistency_weight if arm.unannotated else 0.0,
    }
    changes = {"data": {"n_annotated_groups": n_annotated}, "arms": network}
    for section, values in arm.changes.items():
        changes[section] = changes.get(section, {}) | dict(values)
    sections = {name: replace(getattr(baseline, name), **values) for name, values in changes.items()}
    return replace(baseline, seed=seed, **sections)
