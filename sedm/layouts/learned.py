r"""The learned prior: a small diffusion model of label maps, trained on annotated masks in minutes on one CPU core.

    mask ──signed distances, squashed──► x_0, a picture of K channels on a grid of about 32 points a side
    x_t = α_t·x_0 + σ_t·noise;  the network answers x_0, told t, the class fractions, and how the mask was turned
    layout = the class of the highest score, after offsets that give every class exactly its number of pixels

A distance changes smoothly where a class index jumps: a sample is enlarged as a smooth surface and cut once, so
borders stay smooth, no class appears between two others, and the grid may be coarser than the layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from sedm.data.augment import AffineRange, warp
from sedm.data.label_maps import class_fractions
from sedm.layouts.empirical import cut, highest, signed_distances
from sedm.layouts.prior import LayoutPrior, complete, complete_masks, pixel_counts
from sedm.runtime.seeds import seeded_generator

GRID = 32  # points along the layout's shorter side
MULTIPLE = 4  # of which grid sides are multiples: pixels are folded into channels, then the U-Net halves them once
REACH = 0.1  # of the layout's shorter side: how far from a border distances are told apart
VIEWS = AffineRange(rotation=180.0, scale=1.25, shear=0.0, translation=0.1)
JITTER = 0.1  # standard deviation of the logarithm of a class fraction around a mask's own
CHANNELS = (48, 96)  # U-Net width at each resolution
BATCH_SIZE = 16
LEARNING_RATE = 1e-3
MAX_LOSS_WEIGHT = 5.0
MICRO_BATCH = 8  # layouts sampled at once: always so many, for rounding depends on the number
N_SOLVER_STEPS = 8  # more of them smooth small structures away


class LearnedPrior(LayoutPrior):
    """Layouts from a diffusion model of the masks: shapes that none of them holds, in arrangements like theirs.

    The network knows the class fractions, varied by a tenth so that they cannot serve as a mask's name. It is also
    told zoom and turn of what it sees: when sampling it is told that there were none, so that neither shows.

    Source: telling the network its augmentation, Karras et al. 2022 (arXiv 2206.00364), section 5.

    >>> masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    >>> masks[:, 4:12, 4:12] = 1
    >>> prior = LearnedPrior.fit(masks, ("stroma", "tumour"), n_steps=1, progress=False)
    >>> (prior.sample(2, {"tumour": 0.25}, seed=0) == 1).float().mean((1, 2))
    tensor([0.2500, 0.2500])
    """

    kind = "learned"

    def __init__(
        self, classes: Sequence[str], fractions: Float[Tensor, "n classes"], size: Sequence[int], network: nn.Module
    ):
        super().__init__(classes, fractions)
        self._size = tuple(size)
        self.network = network.eval().requires_grad_(False)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @classmethod
    def fit(
        cls,
        masks: UInt8[Tensor, "n h w"],
        classes: Sequence[str],
        *,
        seed: int = 0,
        n_steps: int = 1500,
        progress: bool = True,
    ) -> LearnedPrior:
        """The prior after this much training, a function of masks and seed; 1500 steps take 5 to 8 minutes on one core.

        Args:
            masks: (n, h, w), uint8, class indices 0…K−1; those with unannotated pixels (255) are left out.
            classes: names of the indices.
            seed: of the initial weights and of every batch.
            n_steps: batches of 16 masks, each seen in another view.
            progress: show a bar with the loss and the time left.

        Raises:
            ValueError: no fully annotated mask, masks below 8 px, a pixel outside the classes, no steps, or a negative
                seed.

        >>> masks = torch.ones(1, 16, 12, dtype=torch.uint8)
        >>> LearnedPrior.fit(masks, ("stroma", "tumour"), n_steps=1, progress=False).size
        (16, 12)
        """
        masks = complete_masks(masks, len(classes))
        if min(masks.shape[1:]) < 8:
            raise ValueError(
                f"masks of {masks.shape[1]}×{masks.shape[2]} px; the learned prior needs 8 px or more a side"
            )
        if n_steps < 1 or seed < 0:
            raise ValueError(f"n_steps={n_steps}, seed={seed}; expected at least one step and a seed of 0 or more")
        with torch.random.fork_rng(devices=[]):  # layers initialise from the global state; leave it as it was
            torch.manual_seed(seed)
            network = _Network(len(classes))
        _train(network, _distances(masks, len(classes)), seed, n_steps, progress)
        return cls(classes, class_fractions(masks, len(classes)), masks.shape[1:], network)

    def _draw(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "h w"]:
        return self._finish([self._start(generator, wish)] * MICRO_BATCH)[0]

    def _sample(self, indices: range, seed: int, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "n h w"]:
        layouts = [torch.empty(0, *self.size, dtype=torch.uint8)]
        for start in range(indices.start - indices.start % MICRO_BATCH, indices.stop, MICRO_BATCH):
            batch = range(start, start + MICRO_BATCH)  # whole, and beginning at the same index whatever is asked for
            found = self._finish([self._start(seeded_generator("layout", seed, index), wish) for index in batch])
            layouts.append(found[[index in indices for index in batch]])
        return torch.cat(layouts)

    def _start(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> tuple[Tensor, Tensor]:
        """All that is random in one layout: (its class fractions, the noise that it begins from)."""
        row = int(torch.randint(len(self.fractions), (), generator=generator))
        drawn = _vary(self.fractions[row], generator)
        fractions = drawn if wish is None else complete(wish, drawn, self.fractions.mean(0))
        return fractions, torch.randn(len(self.classes), *_grid(self.size), generator=generator)

    @torch.inference_mode()
    def _finish(self, starts: list[tuple[Tensor, Tensor]]) -> UInt8[Tensor, "n h w"]:
        """The layouts of these fractions that the solver reaches from this noise."""
        from diffusers import DPMSolverMultistepScheduler

        fractions, x_t = (torch.stack(parts) for parts in zip(*starts, strict=True))
        # beyond what it has seen the network would have to guess: the offsets do the rest
        told = fractions.clamp(self.fractions.amin(0), self.fractions.amax(0))
        condition = torch.cat([told, torch.zeros(len(told), 2)], dim=1)
        solver = DPMSolverMultistepScheduler.from_config(noise_schedule().config, timestep_spacing="trailing")
        solver.set_timesteps(N_SOLVER_STEPS)
        for t in solver.timesteps:
            clean = self.network(x_t, t.expand(len(x_t)), condition).clamp(-1, 1)
            x_t = solver.step(clean, t, x_t).prev_sample
        scores = F.interpolate(x_t, self.size, mode="bicubic", align_corners=False)
        n_pixels = math.prod(self.size)
        pairs = zip(scores, fractions, strict=True)
        return torch.stack([cut(score, pixel_counts(wanted, n_pixels)) for score, wanted in pairs])

    def _state(self):
        weights = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {"fractions": self.fractions, **weights}, {"size": self.size}

    @classmethod
    def _restore(cls, classes, tensors, settings):
        fractions = tensors.pop("fractions")
        network = _Network(len(classes))
        network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in tensors.items()})
        return cls(classes, fractions, settings["size"], network)


class _Network(nn.Module):
    """Predicts the clean distances from noisy ones, their time, and a condition: class fractions, zoom and turn."""

    def __init__(self, n_classes: int):
        from diffusers import UNet2DModel

        super().__init__()
        self.embed = nn.Linear(n_classes + 2, 4 * CHANNELS[0])  # the width of the U-Net's time embedding
        self.unet = UNet2DModel(
            in_channels=4 * n_classes,
            out_channels=4 * n_classes,
            block_out_channels=CHANNELS,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * len(CHANNELS),
            up_block_types=("UpBlock2D",) * len(CHANNELS),
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
    """The diffusion process: T = 1000, cosine (Nichol & Dhariwal 2021, arXiv 2102.09672), x_0-prediction.

    >>> noise_schedule().config.prediction_type
    'sample'
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample")


def _train(network: nn.Module, distances: Float[Tensor, "n k h w"], seed: int, n_steps: int, progress: bool) -> None:
    """Leaves the averaged weights of the training in ``network``."""
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    averaged = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(100, n_steps // 10), n_steps)
    noising = noise_schedule()
    with tqdm(range(n_steps), "learning layouts", unit="step", disable=not progress) as bar:
        for step in bar:
            generator = seeded_generator("layout training batch", seed, step)
            x_t, t, condition, x_0 = _batch(distances, noising, generator)
            weights = (1 / (1 - noising.alphas_cumprod[t])).clamp(max=MAX_LOSS_WEIGHT)  # as in sedm.generator.denoiser
            loss = (weights * (network(x_t, t, condition) - x_0).square().mean((1, 2, 3))).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            averaged.step(network.parameters())
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    averaged.copy_to(network.parameters())


def _distances(masks: UInt8[Tensor, "n h w"], n_classes: int) -> Float[Tensor, "n k h2 w2"]:
    """Signed distances in units of the reach, twice as fine as the grid: turned first, averaged down afterwards."""
    distances = torch.stack([signed_distances(mask, n_classes) for mask in masks]) / (REACH * min(masks.shape[1:]))
    fine = [2 * n for n in _grid(masks.shape[1:])]
    return F.interpolate(distances, fine, mode="bilinear", antialias=True, align_corners=False)


def _batch(distances: Float[Tensor, "n k h2 w2"], noising, generator: torch.Generator) -> tuple[Tensor, ...]:
    """(x_t, t, condition, x_0): what the network gets, and what it should answer."""
    pictures, conditions = [], []
    for row in torch.randint(len(distances), (BATCH_SIZE,), generator=generator).tolist():
        matrix, shift, told = _view(distances.shape[2:], generator)
        seen = warp(distances[row], matrix, shift) / matrix.det().abs().sqrt()  # enlarged, a distance is longer
        fractions = class_fractions(highest(seen)[None], len(seen))[0]
        pictures.append(F.avg_pool2d(seen.tanh(), 2))
        conditions.append(torch.cat([_vary(fractions, generator), told]))
    x_0 = torch.stack(pictures)
    noise = torch.randn(x_0.shape, generator=generator)
    t = torch.randint(noising.config.num_train_timesteps, (BATCH_SIZE,), generator=generator)
    return noising.add_noise(x_0, noise, t), t, torch.stack(conditions), x_0


def _view(size: Sequence[int], generator: torch.Generator) -> tuple[Float[Tensor, "2 2"], Tensor, Tensor]:
    """(matrix, shift, what the network is told of them): half of the time a symmetry, otherwise any turn and zoom.

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
    matrix, shift = VIEWS.draw(size, generator)
    area = matrix.det().abs()
    zoom, turn = -area.log() / (2 * math.log(VIEWS.scale)), (2 * matrix[0, 0] * matrix[0, 1] / area).square()
    return matrix, shift, torch.stack([zoom, turn])


def _vary(fractions: Float[Tensor, " classes"], generator: torch.Generator) -> Float[Tensor, " classes"]:
    varied = fractions * (JITTER * torch.randn(len(fractions), generator=generator)).exp()
    return varied / varied.sum()


def _grid(size: Sequence[int]) -> tuple[int, int]:
    """Grid points along height and width."""
    step = max(1.0, min(size) / GRID)
    return tuple(MULTIPLE * max(2, round(n / step / MULTIPLE)) for n in size)
