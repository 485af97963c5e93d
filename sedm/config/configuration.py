"""The whole configuration: everything that decides a result, and the same as one flat table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from sedm.config.arm_settings import ArmConfig
from sedm.config.checks import known_name
from sedm.config.settings import (
    AutoencoderConfig,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    SamplingConfig,
    SegmentationConfig,
    TrainingConfig,
)
from sedm.config.study import Study


@dataclass(frozen=True)
class Config:
    """Everything that decides a result, apart from the data themselves."""

    study: Study
    preset: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    layouts: LayoutConfig = field(default_factory=LayoutConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    arms: ArmConfig = field(default_factory=ArmConfig)

    def __post_init__(self):
        training = self.training
        jitters = training.colour_jitter, training.class_jitter
        if self.model.autoencoder and (training.symmetries != "none" or any(jitters)):
            raise ValueError(
                f"symmetries={training.symmetries!r}, colour_jitter={jitters[0]} and class_jitter={jitters[1]} with "
                f"model.autoencoder={self.model.autoencoder!r}; set them to 'none' and 0: latents are computed once"
            )
        n_images = self.model.n_style_images
        if self.model.aggregation == "linear" and self.sampling.n_style_images != n_images:
            raise ValueError(
                f"sampling.n_style_images={self.sampling.n_style_images}; 'linear' aggregates exactly {n_images}, "
                "as in training"
            )
        if self.model.aggregation == "linear" and self.training.style_sampling != "multi" and n_images != 1:
            raise ValueError(
                f"style_sampling={self.training.style_sampling!r} lends one image; 'linear' was asked for {n_images}"
            )

    def __str__(self):
        """One setting a line."""
        return self.describe()

    def describe(self, *sections: str) -> str:
        """Write one setting a line: study, preset, seed and those of the sections named, or of all.

        Raises:
            ValueError: an unknown section.

        >>> from sedm.config import build_config
        >>> print(build_config("tissue", "smoke").describe("layouts").partition("layouts.learned")[0])
        study                          tissue
        preset                         smoke
        seed                           0
        layouts.prior                  empirical
        layouts.n_compared             12
        <BLANKLINE>
        """
        known = [one.name for one in dataclasses.fields(self) if one.name not in ("study", "preset", "seed")]
        for name in sections:
            known_name("section", name, known)
        hidden = set(known) - set(sections) if sections else set()
        shown = [(name, value) for name, value in flatten(self).items() if name.split(".")[0] not in hidden]
        return "\n".join(f"{name:30} {value}" for name, value in shown)


def flatten(config: Config) -> dict[str, object]:
    """Write the settings as one flat dictionary, with keys like ``training.n_steps``; the study by its name.

    >>> from sedm.config import build_config
    >>> flat = flatten(build_config("tissue", "smoke"))
    >>> flat["study"], flat["sampling.n_steps"], flat["layouts.learned.n_steps"]
    ('tissue', 3, 4)
    """
    settings = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    settings["study"] = config.study.name
    sections = {name: dataclasses.asdict(one) for name, one in settings.items() if dataclasses.is_dataclass(one)}
    return dict(_flat_items(settings | sections))


def _flat_items(settings: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat_items(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
