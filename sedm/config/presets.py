"""Presets: the settings of each size, smoke to paper, and what single studies change in them.

A notebook turns its flat parameters into one frozen value, ``build_config("tissue", "quick", seed=0)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sedm.config.arm_settings import (
    COMPARED,
    ArmConfig,
)
from sedm.config.checks import (
    known_name,
)
from sedm.config.configuration import (
    Config,
)
from sedm.config.settings import (
    AutoencoderConfig,
    DataConfig,
    LayoutConfig,
    LearnedPriorConfig,
    ModelConfig,
    SamplingConfig,
    SegmentationConfig,
    TrainingConfig,
)
from sedm.config.study import Study, find_study

# networks that predict masks meet other stains and other contrasts between classes: on biopsies of another laboratory
# they reach an IoU of 0.66 with these, 0.49 without
SEGMENTER_COLOURS = {"colour_jitter": 0.3, "class_jitter": 0.4}

# the style has a token of each class, whose colours the layout is painted in
BY_CLASS = {"aggregation": "by_class", "style_injection": "class_film"}

PRESETS = {
    "smoke": {  # proves the plumbing, in seconds
        "data": DataConfig(
            image_size=32,
            n_train_groups=4,
            n_validation_groups=2,
            n_test_groups=3,
            n_images_per_group=6,
            n_annotated_groups=2,
        ),
        "layouts": LayoutConfig(n_compared=12, learned=LearnedPriorConfig(n_steps=4, warmup_steps=0)),
        "model": ModelConfig(channels=(16, 32), style_dim=16, style_channels=(8, 16), **BY_CLASS),
        "autoencoder": AutoencoderConfig(channels=(8, 16), n_steps=6, warmup_steps=2, checkpoint_every=3),
        "training": TrainingConfig(n_steps=6, batch_size=8, warmup_steps=2, checkpoint_every=3),
        "sampling": SamplingConfig(n_images=12, n_steps=3, micro_batch=4),
        "segmentation": SegmentationConfig(channels=(8, 16), n_steps=6, batch_size=8),
        "arms": ArmConfig(
            compared=("real", "colour_augmentation", "sedm"),
            swept=("synthetic_fraction",),
            n_seeds=1,
            n_images=12,
            channels=(8, 16),
            n_steps=6,
            batch_size=8,
        ),
    },
    "quick": {  # what a newcomer runs first, in minutes on two CPU cores
        "data": DataConfig(),
        "layouts": LayoutConfig(),
        "model": ModelConfig(**BY_CLASS),
        "autoencoder": AutoencoderConfig(),
        "training": TrainingConfig(),
        "sampling": SamplingConfig(),
        "segmentation": SegmentationConfig(n_steps=300, **SEGMENTER_COLOURS),
        "arms": ArmConfig(
            compared=(
                "real",
                "colour_augmentation",
                "reinhard",
                "shuffled_styles",
                "sedm",
                "sedm_augmented",
                "all_annotations",
            ),
            swept=("synthetic_fraction",),
            label_counts=(2, 12),
            n_steps=200,
            batch_size=8,
        ),
    },
    "full": {  # the honest experiment at 128 px, in hours on CPU cores
        "data": DataConfig(
            image_size=128,
            n_train_groups=60,
            n_validation_groups=8,
            n_test_groups=24,
            n_images_per_group=24,
            n_shifted_groups=12,
        ),
        "layouts": LayoutConfig(learned=LearnedPriorConfig(n_steps=2000, warmup_steps=100)),
        "model": ModelConfig(channels=(16, 32, 64, 128, 192), condition_dim=128, **BY_CLASS),
        "autoencoder": AutoencoderConfig(warmup_steps=200, ema_decay=0.999),
        "training": TrainingConfig(n_steps=12_000, warmup_steps=200, ema_decay=0.999),
        "sampling": SamplingConfig(n_images=2000),
        "segmentation": SegmentationConfig(n_steps=1000, batch_size=24, **SEGMENTER_COLOURS),
        "arms": ArmConfig(
            compared=COMPARED,
            swept=(
                "colour_jitter",
                "synthetic_fraction",
                "pseudo_label_fraction",
                "transfer_fraction",
                "consistency_weight",
                "share",
                "layouts",
                "n_steps",
                "n_steps_of_transfer",
                "n_steps_of_pseudo_labels",
            ),
            label_counts=(4, 8, 16, 60),
            also_annotated=4,
            longer=("n_steps_1200", "n_steps_of_transfer_1200", "n_steps_of_pseudo_labels_1200"),
            n_draws=2,
            n_seeds=3,
            n_images=800,
            n_steps=400,
            batch_size=12,
            n_pretraining_steps=3000,
            n_fine_tuning_steps=1500,
        ),
    },
    "paper": {  # the reference's scale: 512 px, latents, a Swin-V2 encoder, several GPUs; never run so far
        "data": DataConfig(
            image_size=512,
            n_train_groups=60,
            n_validation_groups=8,
            n_test_groups=24,
            n_images_per_group=24,
            n_shifted_groups=12,
        ),
        "layouts": LayoutConfig(learned=LearnedPriorConfig(n_steps=20_000, warmup_steps=100)),
        "model": ModelConfig(
            channels=(128, 256, 512),
            n_blocks=2,
            style_dim=512,
            condition_dim=512,
            style_backbone="swinv2",
            autoencoder="own",
        ),
        "autoencoder": AutoencoderConfig(
            channels=(64, 128, 256),
            n_steps=50_000,
            batch_size=8,
            learning_rate=1e-4,
            warmup_steps=1000,
            ema_decay=0.9999,
            checkpoint_every=1000,
        ),
        "training": TrainingConfig(
            optimiser="adamw",
            n_steps=60_000,
            batch_size=16,
            learning_rate=2e-4,
            warmup_steps=1000,
            symmetries="none",  # latents are computed once
            colour_jitter=0.0,
            class_jitter=0.0,
            ema_decay=0.9999,
            checkpoint_every=1000,
        ),
        "sampling": SamplingConfig(n_images=20_000, n_steps=20, n_style_images=4),
        "segmentation": SegmentationConfig(network="segformer_b2", n_steps=10_000, **SEGMENTER_COLOURS),
        "arms": ArmConfig(
            compared=COMPARED,
            network="segformer_b2",
            n_draws=3,
            n_seeds=3,
            n_images=20_000,
            n_steps=10_000,
            n_pretraining_steps=40_000,
            n_fine_tuning_steps=20_000,
        ),
    },
}
"""Size of a run by preset; the file of a study holds what it needs different."""


def build_config(study: str | Path | Study, preset: str, seed: int = 0) -> Config:
    """Build the configuration of ``study`` at the size ``preset``.

    Args:
        study: a name, or the path of a ``study.toml``; see `sedm.config.study.find_study`.

    Raises:
        ValueError: an unknown study or preset (the message names the nearest known one), a setting in the file of the
            study that there is not, or a seed that is not a whole number of 0 or more.

    >>> build_config("tissue", "smoke").data.image_size
    32
    >>> build_config("tissue", "quik")
    Traceback (most recent call last):
    ...
    ValueError: preset='quik'; choose one of smoke, quick, full, paper (did you mean 'quick'?)
    """
    study = find_study(study)
    known_name("preset", preset, PRESETS)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed={seed!r}; give a whole number of 0 or more, without quotes (papermill: -p seed 0)")
    sections = dict(PRESETS[preset])
    if study.upright and sections["training"].symmetries == "square":
        sections["training"] = replace(sections["training"], symmetries="mirror")
    if study.file is not None:
        sections["data"] = replace(sections["data"], n_annotated_groups=0)
    for name, changes in _changes_of(study)[preset].items():
        sections[name] = _changed(sections[name], changes, f"{study}, key 'presets.{preset}.{name}")
    return Config(study, preset, seed, **sections)


def _changes_of(study: Study) -> dict[str, Mapping]:
    """Look up what a study changes in each preset; refuse what no preset has, also in those not asked for."""
    for preset, sections in study.presets.items():
        for name in sections:
            for what, key, known in (("preset", preset, PRESETS), ("section", name, PRESETS["quick"])):
                try:
                    known_name(what, key, known)
                except ValueError as error:
                    raise ValueError(f"{study}, key 'presets': {error}") from None
    return {preset: study.presets.get(preset, {}) for preset in PRESETS}


def _changed(settings, changes: Any, where: str):
    """Replace settings by those of a file, whose lists are tuples here."""
    values = {}
    if not isinstance(changes, Mapping):
        raise ValueError(f"{where}': {changes!r}; give settings, as n_steps = 2000")
    for name, value in changes.items():
        try:
            before = getattr(settings, known_name("setting", name, [one.name for one in fields(settings)]))
        except ValueError as error:
            raise ValueError(f"{where}': {error}") from None
        if dataclasses.is_dataclass(before):
            value = _changed(before, value, f"{where}.{name}")
        values[name] = tuple(value) if isinstance(value, list) else value
        if type(values[name]) is not type(before) and not (isinstance(before, float) and type(value) is int):
            raise ValueError(f"{where}.{name}': {value!r}; give a value as {before!r}")
    try:
        return replace(settings, **values)
    except ValueError as error:
        raise ValueError(f"{where}': {error}") from None
