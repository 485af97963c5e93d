r"""The learned prior: a small diffusion model of label maps, trained on annotated masks in minutes on one CPU core.

    mask ──signed distances, squashed──► x_0, a picture of K channels on a grid of about 32 points a side
    x_t = α_t·x_0 + σ_t·noise;  the network answers x_0, told t, the class fractions, and how the mask was turned
    layout = the class of the highest score, after offsets that give every class exactly its number of pixels

A distance changes smoothly where a class index jumps: a sample is enlarged as a smooth surface and cut once, so
borders stay smooth, no class appears between two others, and the grid may be coarser than the layout.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sedm.config import LearnedPriorConfig
from sedm.data.augment import AffineRange, warp
from sedm.data.label_maps import class_fractions
from sedm.layouts.empirical import cut, highest, signed_distances
from sedm.layouts.prior import LayoutPrior, complete, complete_masks, pixel_counts
from sedm.runtime.loop import OneProcess, optimise
from sedm.runtime.seeds import seeded_generator


class LearnedPrior(LayoutPrior):
    """Layouts from a diffusion model of the masks: shapes that none of them holds, in arrangements like theirs.

    The network knows the class fractions, varied a little so that they cannot serve as a mask's name. It is also
    told zoom and turn of what it sees: when sampling it is told that there were none, so that neither shows.

    Source: telling the network its augmentation, Karras et al. 2022 (arXiv 2206.00364), section 5.

    >>> masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    >>> masks[:, 4:12, 4:12] = 1
    >>> prior = LearnedPrior.fit_masks(masks, ("stroma", "tumour"), LearnedPriorConfig(n_steps=1), progress=False)
    >>> (prior.sample(2, {"tumour": 0.25}, seed=0) == 1).float().mean((1, 2))
    tensor([0.2500, 0.2500])
    """

    kind = "learned"

    def __init__(
        self,
        classes: Sequence[str],
        fractions: Float[Tensor, "n classes"],
        size: Sequence[int],
        network: nn.Module,
        config: LearnedPriorConfig,
    ):
        super().__init__(classes, fractions)
        self._size = tuple(size)
        self.config = config
        self.network = network.eval().requires_grad_(False)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @classmethod
    def fit_masks(
        cls,
        masks: UInt8[Tensor, "n h w"],
        classes: Sequence[str],
        config: LearnedPriorConfig | None = None,
        *,
        seed: int = 0,
        progress: bool = True,
    ) -> LearnedPrior:
        """Train the prior, a function of masks, settings and seed; 1500 steps take 5 to 8 minutes on one core.

        Args:
            masks: (n, h, w), uint8, class indices 0…K−1; those with unannotated pixels (255) are left out.
            classes: names of the indices.
            config: its defaults when left out.
            seed: of the initial weights and of every batch.
            progress: show a bar with masks/s, loss and time left.

        Raises:
            ValueError: no fully annotated mask, masks below 8 px, a pixel outside the classes, or a negative seed.

        >>> masks = torch.ones(1, 16, 12, dtype=torch.uint8)
        >>> LearnedPrior.fit_masks(masks, ("stroma", "tumour"), LearnedPriorConfig(n_steps=1), progress=False).size
        (16, 12)
        """
        config = config or LearnedPriorConfig()
        masks = complete_masks(masks, len(classes))
        if min(masks.shape[1:]) < 8:
            raise ValueError(
                f"masks of {masks.shape[1]}×{masks.shape[2]} px; the learned prior needs 8 px or more a side"
            )
        if seed < 0:
            raise ValueError(f"seed={seed}; expected 0 or more")
        with torch.random.fork_rng(devices=[]):  # layers initialise from the global state; leave it as it was
            torch.manual_seed(seed)
            network = _Network(len(classes), config.channels)
        _train(network, _distances(masks, len(classes), config), config, seed, progress)
        return cls(classes, class_fractions(masks, len(classes)), masks.shape[1:], network, config)

    def _draw(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "h w"]:
        return self._finish([self._start(generator, wish)] * self.config.micro_batch)[0]

    def _sample(self, indices: range, seed: int, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "n h w"]:
        n_batch = self.config.micro_batch
        layouts = [torch.empty(0, *self.size, dtype=torch.uint8)]
        for start in range(indices.start - indices.start % n_batch, indices.stop, n_batch):
            batch = range(start, start + n_batch)  # whole, and beginning at the same index whatever is asked for
            drawn = self._finish([self._start(seeded_generator("layout", seed, index), wish) for index in batch])
            layouts.append(drawn[[index in indices for index in batch]])
        return torch.cat(layouts)

    def _start(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> tuple[Tensor, Tensor]:
        """Draw all that is random in one layout: (its class fractions, the noise that it begins from)."""
        row = int(torch.randint(len(self.fractions), (), generator=generator))
        drawn = _jitter_fractions(self.fractions[row], self.config.fraction_jitter, generator)
        fractions = drawn if wish is None else complete(wish, drawn, self.fractions.mean(0))
        return fractions, torch.randn(len(self.classes), *_grid(self.size, self.config), generator=generator)

    @torch.inference_mode()
    def _finish(self, starts: list[tuple[Tensor, Tensor]]) -> UInt8[Tensor, "n h w"]:
        """Solve from the noise to the layouts, and give each exactly its class fractions."""
        from diffusers import DPMSolverMultistepScheduler

        fractions, x_t = (torch.stack(parts) for parts in zip(*starts, strict=True))
        # beyond what it has seen the network would have to guess: the offsets do the rest
        known = fractions.clamp(self.fractions.amin(0), self.fractions.amax(0))
        condition = torch.cat([known, torch.zeros(len(known), 2)], dim=1)
        solver = DPMSolverMultistepScheduler.from_config(noise_schedule().config, timestep_spacing="trailing")
        solver.set_timesteps(self.config.n_solver_steps)
        for t in solver.timesteps:
            clean = self.network(x_t, t.expand(len(x_t)), condition).clamp(-1, 1)
            x_t = solver.step(clean, t, x_t).prev_sample
        scores = F.interpolate(x_t, self.size, mode="bicubic", align_corners=False)
        counts = [pixel_counts(shares, math.prod(self.size)) for shares in fractions]
        return torch.stack([cut(score, count) for score, count in zip(scores, counts, strict=True)])

    def _state(self):
        weights = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {"fractions": self.fractions, **weights}, {"size": self.size, "config": dataclasses.asdict(self.config)}

    @classmethod
    def _restore(cls, classes, tensors, settings):
        fractions = tensors.pop("fractions")
        config = settings.get("config", {})  # files of earlier versions do not hold it: it was always the default
        config = LearnedPriorConfig(**config | {"channels": tuple(config.get("channels", LearnedPriorConfig.channels))})
        network = _Network(len(classes), config.channels)
        network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in tensors.items()})
        return cls(classes, fractions, settings["size"], network, config)


class _Network(nn.Module):
    """Predicts the clean distances from noisy ones, their time, and a condition: class fractions, zoom and turn."""

    def __init__(self, n_classes: int, channels: tuple[int, ...]):
        from diffusers import UNet2DModel

        super().__init__()
        self.embed = nn.Linear(n_classes + 2, 4 * channels[0])  # the width of the U-Net's time embedding
        self.unet = UNet2DModel(
            in_channels=4 * n_classes,
            out_channels=4 * n_classes,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * len(channels),
            up_block_types=("UpBlock2D",) * len(channels),
            norm_num_groups=4,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )

    def forward(
        self, x_t: Float[Tensor, "n k h w"], t: Int[Tensor, " n"], condition: Float[Tensor, "n k_plus_2"]
    ) -> Float[Tensor, "n k h w"]:
        embedded = self.embed(4 * condition)  # fractions differ by about a quarter
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(x_t, 2), t, class_labels=embedded).sample, 2)


def noise_schedule():
    """Make the diffusion process: T = 1000, cosine (Nichol & Dhariwal 2021, arXiv 2102.09672), x_0-prediction.

    >>> noise_schedule().config.prediction_type
    'sample'
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample")


def _train(
    network: nn.Module, distances: Float[Tensor, "n k h w"], config: LearnedPriorConfig, seed: int, progress: bool
) -> None:
    """Train ``network`` and leave the averaged weights in it."""
    noising = noise_schedule()

    def loss_of(network: nn.Module, step: int) -> Tensor:
        generator = seeded_generator("layout training batch", seed, step)
        x_t, t, condition, x_0 = _batch(distances, noising, config, generator)
        # as in sedm.generator.process
        weights = (1 / (1 - noising.alphas_cumprod[t])).clamp(max=config.max_loss_weight)
        return (weights * (network(x_t, t, condition) - x_0).square().mean((1, 2, 3))).mean()

    optimise(OneProcess(torch.device("cpu")), network, loss_of, config, name="learning layouts", progress=progress)


def _distances(masks: UInt8[Tensor, "n h w"], n_classes: int, config: LearnedPriorConfig) -> Float[Tensor, "n k h2 w2"]:
    """Compute signed distances in units of the reach, twice as fine as the grid: turned first, then averaged down."""
    reach = config.reach * min(masks.shape[1:])
    distances = torch.stack([signed_distances(mask, n_classes) for mask in masks]) / reach
    fine = [2 * n for n in _grid(masks.shape[1:], config)]
    return F.interpolate(distances, fine, mode="bilinear", antialias=True, align_corners=False)


def _batch(
    distances: Float[Tensor, "n k h2 w2"], noising, config: LearnedPriorConfig, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Draw (x_t, t, condition, x_0): what the network gets, and what it should answer."""
    pictures = []
    conditions = []
    for row in torch.randint(len(distances), (config.batch_size,), generator=generator).tolist():
        matrix, shift, zoom_and_turn = _view(distances.shape[2:], config, generator)
        view = warp(distances[row], matrix, shift) / matrix.det().abs().sqrt()  # enlarged, a distance is longer
        fractions = class_fractions(highest(view)[None], len(view))[0]
        pictures.append(F.avg_pool2d(view.tanh(), 2))
        jittered = _jitter_fractions(fractions, config.fraction_jitter, generator)
        conditions.append(torch.cat([jittered, zoom_and_turn]))
    x_0 = torch.stack(pictures)
    noise = torch.randn(x_0.shape, generator=generator)
    t = torch.randint(noising.config.num_train_timesteps, (config.batch_size,), generator=generator)
    return noising.add_noise(x_0, noise, t), t, torch.stack(conditions), x_0


def _view(
    size: Sequence[int], config: LearnedPriorConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "2 2"], Tensor, Tensor]:
    """Draw (matrix, shift, what the network is told of them): half of the time a symmetry, else any turn and zoom.

    A symmetry of the picture, of which a square has eight, makes nothing unnatural, and is told as two zeros. A turn by
    other angles brings reflected corners; it is told as sin²(2·angle), a zoom as its share of the range, −1…1.
    """
    if torch.rand((), generator=generator) < 0.5:
        turns, flip = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
        if size[0] != size[1]:
            turns *= 2
        quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        matrix = torch.linalg.matrix_power(quarter, turns) @ torch.tensor([1.0, 1.0 - 2 * flip]).diag()
        return matrix, torch.zeros(2), torch.zeros(2)
    views = AffineRange(rotation=180.0, scale=config.zoom, shear=0.0, translation=config.shift)
    matrix, shift = views.draw(size, generator)
    area = matrix.det().abs()
    zoom = -area.log() / (2 * math.log(config.zoom))
    turn = (2 * matrix[0, 0] * matrix[0, 1] / area).square()
    return matrix, shift, torch.stack([zoom, turn])


def _jitter_fractions(
    fractions: Float[Tensor, " classes"], jitter: float, generator: torch.Generator
) -> Float[Tensor, " classes"]:
    varied = fractions * (jitter * torch.randn(len(fractions), generator=generator)).exp()
    return varied / varied.sum()


def _grid(size: Sequence[int], config: LearnedPriorConfig) -> tuple[int, int]:
    """Compute the grid points along height and width: pixels are folded into channels, then each level halves them."""
    multiple = 2 ** len(config.channels)
    step = max(1.0, min(size) / config.grid)
    return tuple(multiple * max(2, round(n / step / multiple)) for n in size)
