"""The settings of each part, as frozen values with their defaults, checked where they are made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from sedm.config.checks import check_fraction, check_not_negative, check_positive, check_whole, known_name

OPTIMISERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How `sedm.runtime.loop.optimise` trains a network: a linear warm-up, then half a cosine to zero."""

    n_steps: int
    batch_size: int  # items a step and process
    optimiser: str = "adamw"  # or "muon" (`sedm.runtime.muon`); OPTIMISERS
    learning_rate: float = 1e-3  # the peak
    warmup_steps: float = 100  # below 1: a share of all steps
    warmup_start: int = 0  # step s of the warm-up has (s + this) / n_warmup_steps of the peak
    weight_decay: float = 0.01
    fused: bool = True  # one kernel for all weights; faster, rounds differently
    ema_decay: float = 0.998  # of the averaged weights, which are the result; 0 = the last weights are
    max_grad_norm: float = 1.0  # gradients are clipped to this norm; 0 = they are not
    max_loss_growth: float = 3.0  # times the mean loss of the first steps, which stops the training; 0 = it goes on

    def __post_init__(self):
        check_whole(self, "n_steps", "batch_size")
        check_positive(self, "learning_rate")
        check_not_negative(self, "warmup_steps", "weight_decay", "max_grad_norm", "max_loss_growth")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}; it must lie in [0, 1)")
        known_name("optimiser", self.optimiser, OPTIMISERS)

    @property
    def n_warmup_steps(self) -> int:
        """The number of steps in which the learning rate rises to its peak.

        >>> OptimiserConfig(n_steps=300, batch_size=1, warmup_steps=0.1).n_warmup_steps
        30
        """
        is_share = self.warmup_steps < 1
        n_steps = round(self.warmup_steps * self.n_steps) if is_share else round(self.warmup_steps)
        return max(self.warmup_start, n_steps)


@dataclass(frozen=True, kw_only=True)
class ResumableConfig(OptimiserConfig):
    """How a network is trained in a folder, whose checkpoints an interrupted training goes on from."""

    checkpoint_every: int = 400  # steps
    n_checkpoints: int = 2  # the last ones, which are kept

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "checkpoint_every", "n_checkpoints")


@dataclass(frozen=True)
class DataConfig:
    """How many images of how many groups; the group counts are for embedded studies only."""

    image_size: int = 64  # px a side
    n_train_groups: int = 30
    n_validation_groups: int = 6  # train the segmenters that measure fidelity
    n_test_groups: int = 12
    n_images_per_group: int = 16
    n_shifted_groups: int = 0  # of another population, only to be tested on
    n_annotated_groups: int = 6  # train groups that keep their masks, 0 = all; the others lend their style

    def __post_init__(self):
        check_positive(self, "image_size", "n_train_groups", "n_test_groups", "n_images_per_group")
        check_not_negative(self, "n_annotated_groups")
        if self.image_size % 16:
            raise ValueError(f"image_size={self.image_size}; it must be a multiple of 16")


PRIORS = ("empirical", "random_field", "learned")
LAYOUT_SOURCES = (*PRIORS, "predicted_masks")  # the last are predicted on unannotated images


@dataclass(frozen=True, kw_only=True)
class LearnedPriorConfig(OptimiserConfig):
    """The diffusion model of label maps (`sedm.layouts.learned`), how it is trained, and how it draws."""

    channels: tuple[int, ...] = (48, 96)  # U-Net width at each resolution
    grid: int = 32  # points along the layout's shorter side
    reach: float = 0.1  # of the layout's shorter side: how far from a border distances are told apart
    zoom: float = 1.25  # largest factor by which masks are enlarged or reduced in training
    shift: float = 0.1  # of a mask's size, by which it is moved at most in training
    fraction_jitter: float = 0.1  # standard deviation of the logarithm of a class fraction around that of a mask
    max_loss_weight: float = 5.0  # of nearly clean maps
    n_solver_steps: int = 8  # more of them smooth small structures away
    micro_batch: int = 8  # layouts drawn at once; part of what fixes a layout, for rounding depends on it
    n_steps: int = 300
    batch_size: int = 16
    warmup_steps: float = 0.1
    ema_decay: float = 0.999

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "grid", "reach", "max_loss_weight", "n_solver_steps", "micro_batch")
        if not self.zoom > 1:
            raise ValueError(f"zoom={self.zoom}; it must be greater than 1")


@dataclass(frozen=True)
class LayoutConfig:
    """Which prior draws the layouts that images are made for, and how priors are compared."""

    prior: str = "empirical"  # PRIORS
    n_compared: int = 200  # layouts of each prior in the fidelity table
    learned: LearnedPriorConfig = field(default_factory=LearnedPriorConfig)

    def __post_init__(self):
        check_positive(self, "n_compared")
        known_name("prior", self.prior, PRIORS)


AGGREGATIONS = ("mean", "max", "linear", "attention", "tokens", "by_class")
STYLE_INJECTIONS = ("film", "bottleneck", "cross_attention", "class_film")
LAYOUT_INJECTIONS = ("input", "every_scale")
OBJECTIVES = ("x_0", "epsilon", "v", "flow")
STYLE_SAMPLING = ("augmented", "nearby", "same_group", "multi", "none")
SYMMETRIES = ("none", "mirror", "square")
PAIRINGS = ("random", "composition", "class")
STYLE_SOURCES = ("all", "unannotated", "annotated")
SEGFORMERS = {  # Xie et al. 2021, table 6
    "segformer_b0": {"depths": [2, 2, 2, 2], "hidden_sizes": [32, 64, 160, 256], "decoder_hidden_size": 256},
    "segformer_b1": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 256},
    "segformer_b2": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768},
}
CONSISTENCIES = ("mean_teacher", "unimatch")
N_COLOURS = 6  # mean and deviation of red, green and blue, which a style by class begins with
UNANNOTATED = ("predicted_masks", "null_layout", "left_out")


@dataclass(frozen=True)
class ModelConfig:
    """The size of the denoiser and of the style encoder."""

    channels: tuple[int, ...] = (16, 32, 64, 128)  # U-Net width at each resolution, those of the pixels first
    n_blocks: int = 1  # residual blocks at each resolution
    unshuffle: int = 1  # pixels a side folded into channels before the U-Net; 2 is quicker, and much worse
    style_dim: int = 128  # length of a token of a style
    condition_dim: int = 64  # length of what time and style are summed to, before they scale and shift features
    style_backbone: str = "convolutional"  # or a model type of transformers ("swinv2"), or a folder with such a model
    style_channels: tuple[int, ...] = (24, 48, 96)  # width of the convolutional encoder at each halving
    n_style_images: int = 4  # images that make up one style in training
    aggregation: str = "mean"  # how several style embeddings become one style; AGGREGATIONS
    style_injection: str = "film"  # how the style enters the U-Net; STYLE_INJECTIONS
    layout_injection: str = "input"  # where the layout enters the U-Net; LAYOUT_INJECTIONS
    objective: str = "x_0"  # what the network predicts; OBJECTIVES
    autoencoder: str = ""  # "" works on pixels, "own" on latents of a small autoencoder of ours, or a diffusers folder

    def __post_init__(self):
        check_whole(self, "n_blocks", "unshuffle", "style_dim", "condition_dim", "n_style_images")
        known_name("aggregation", self.aggregation, AGGREGATIONS)
        known_name("style_injection", self.style_injection, STYLE_INJECTIONS)
        known_name("layout_injection", self.layout_injection, LAYOUT_INJECTIONS)
        known_name("objective", self.objective, OBJECTIVES)
        for aggregation, injection, meaning in (
            ("tokens", "cross_attention", "one token a style image"),
            ("by_class", "class_film", "one token a class of the style images"),
        ):
            if (self.aggregation == aggregation) != (self.style_injection == injection):
                raise ValueError(
                    f"aggregation={self.aggregation!r} with style_injection={self.style_injection!r}; "
                    f"{aggregation!r} and {injection!r} go together: {meaning}"
                )
        if self.aggregation == "by_class" and self.style_backbone != "convolutional":
            raise ValueError(
                f"aggregation='by_class' with style_backbone={self.style_backbone!r}; only 'convolutional' tells the "
                "classes of style images apart"
            )
        if self.aggregation == "by_class" and self.style_dim <= N_COLOURS:
            raise ValueError(f"style_dim={self.style_dim}; 'by_class' keeps {N_COLOURS} of it for plain colours")

    def to_dict(self) -> dict[str, object]:
        """Return the settings as plain values; diffusers asks for them when it saves a network."""
        return dataclasses.asdict(self)

    @classmethod
    def restore(cls, settings: ModelConfig | dict[str, object]) -> ModelConfig:
        """Rebuild the settings that a saved network holds as a dictionary, where JSON has made lists of tuples.

        >>> ModelConfig.restore({"channels": [16, 32], "style_dim": 8}) == ModelConfig((16, 32), style_dim=8)
        True
        """
        if isinstance(settings, ModelConfig):
            return settings
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(ResumableConfig):
    """The small autoencoder of ours, where ``model.autoencoder`` is "own"."""

    channels: tuple[int, ...] = (32, 64)  # width at each resolution; each but the first halves it
    latent_channels: int = 4
    kl_weight: float = 1e-6  # of the Kullback-Leibler term, which keeps latents near a unit Gaussian
    n_measured: int = 1024  # images that the latents' mean and deviation are measured on, at most
    n_steps: int = 1000
    batch_size: int = 2  # many small steps learn faster here

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "latent_channels", "n_measured")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ResumableConfig):
    """How the generator is trained."""

    n_steps: int = 1000
    batch_size: int = 8
    optimiser: str = "muon"
    annotated_fraction: float = 0.5  # share of a batch with a layout, where some images have none
    unannotated: str = "predicted_masks"  # what images without a mask are trained with; UNANNOTATED
    style_sampling: str = "multi"  # which images lend their style in training; STYLE_SAMPLING
    style_dropout: float = 0.1  # share of items that see the null style instead
    layout_dropout: float = 0.1  # share of annotated items that see the null layout instead
    symmetries: str = "square"  # under which images and layouts are seen, and style images by themselves; SYMMETRIES
    colour_jitter: float = 0.2  # of an item and its style images alike: their optical density times exp(±this)
    class_jitter: float = 0.8  # of each class of an annotated item and of its style images: the same for them alone
    class_weight: float = 0.3  # of the error in telling the classes of style images, for "by_class"
    train_style_encoder: bool = True  # False leaves all of it as it was initialised but what tells classes
    max_loss_weight: float = 5.0  # of nearly clean images; γ of min-SNR, Hang et al. 2023

    def __post_init__(self):
        super().__post_init__()
        check_not_negative(self, "colour_jitter", "class_jitter", "class_weight", "max_loss_weight")
        known_name("symmetries", self.symmetries, SYMMETRIES)
        known_name("unannotated", self.unannotated, UNANNOTATED)
        known_name("style_sampling", self.style_sampling, STYLE_SAMPLING)
        if not 0 < self.annotated_fraction <= 1:
            raise ValueError(f"annotated_fraction={self.annotated_fraction}; it must lie in (0, 1]")
        for name in ("style_dropout", "layout_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; it must lie in [0, 1)")


@dataclass(frozen=True)
class SamplingConfig:
    """How synthetic images are made."""

    n_images: int = 256  # in the synthetic table
    n_steps: int = 8  # network evaluations an image (twice that with guidance)
    guidance_scale: float = 1.0  # 1 = no guidance
    n_style_images: int = 4  # images that make up one style
    pairing: str = "random"  # how layouts find their styles; PAIRINGS
    style_sources: str = "all"  # groups whose styles are borrowed; STYLE_SOURCES
    n_mixed_groups: int = 1  # groups whose styles are mixed into that of one image
    extrapolation: float = 0.0  # how far beyond them, away from one more group, in units of their distance, at most
    filter_percentile: float = 0.0  # pairs below this percentile of the scores of a class are dropped; 0 keeps all
    micro_batch: int = 16  # images sampled together; part of what fixes an image's bytes

    def __post_init__(self):
        check_whole(self, "n_images", "n_steps", "n_style_images", "n_mixed_groups", "micro_batch")
        check_not_negative(self, "guidance_scale", "extrapolation")
        known_name("pairing", self.pairing, PAIRINGS)
        known_name("style_sources", self.style_sources, STYLE_SOURCES)
        if not 0 <= self.filter_percentile < 100:
            raise ValueError(f"filter_percentile={self.filter_percentile}; it must lie in [0, 100), and 0 keeps all")


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(OptimiserConfig):
    """How a segmentation network is trained; in `Config` those that predict masks, filter pairs, and judge."""

    network: str = "unet"  # or one of SEGFORMERS, or a folder with a pretrained SegFormer
    channels: tuple[int, ...] = (16, 32, 64, 128)  # U-Net width at each resolution
    synthetic_fraction: float = 0.8  # share of a batch drawn from the synthetic table, where there is one
    colour_jitter: float = 0.0  # strength of random colour changes; 0 = none
    stain_jitter: float = 0.0  # of haematoxylin, eosin and a third stain: their amounts times 1 ± this, and ± this
    class_jitter: float = 0.0  # of each class by itself: its optical density times exp(±this)
    consistency: str = "mean_teacher"  # what a teacher asks of unannotated images, where there are any; CONSISTENCIES
    consistency_weight: float = 10.0  # of that loss
    confidence: float = 0.95  # of the teacher, below which "unimatch" does not believe it
    consistency_ramp: float = 0.4  # share of the steps until that weight is reached
    teacher_decay: float = 0.99  # of the teacher's weights; until that many steps are made, their plain average
    student_jitter: float = 0.3  # strength of the colour changes that the teacher is not shown
    n_steps: int = 150
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup_steps: float = 0.05
    warmup_start: int = 1
    fused: bool = False
    ema_decay: float = 0.0
    max_grad_norm: float = 0.0
    max_loss_growth: float = 0.0  # that of a mean teacher grows with its weight

    def __post_init__(self):
        super().__post_init__()
        known_name("consistency", self.consistency, CONSISTENCIES)
        check_fraction(self, "synthetic_fraction", "confidence")
        check_not_negative(
            self, "colour_jitter", "stain_jitter", "class_jitter", "consistency_weight", "student_jitter"
        )
        if not 0 <= self.teacher_decay < 1:
            raise ValueError(f"teacher_decay={self.teacher_decay}; it must lie in [0, 1)")
        check_positive(self, "consistency_ramp")
