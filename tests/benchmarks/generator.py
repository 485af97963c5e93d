"""The generator against the reference's recipe at equal U-Nets: training, sampling, and where each gain comes from.

    python -m tests.benchmarks.generator [--settings quick wide] [--rounds 5]

Everything runs in turns in one process. A whole recipe run and a whole run of ours give the two ratios that count.
The gains are taken apart with the seconds of single parts: an image of the recipe costs one style encoding and 143
solver steps of two evaluations, and each row switches one of these. ``predicted`` beside ``measured`` says how well
parts add up to the whole. Written to ``figures/benchmarks/generator.json``.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
from contextlib import nullcontext
from dataclasses import replace
from statistics import median

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from sedm.config import ModelConfig, SamplingConfig, build_config
from sedm.generator.denoiser import build_model
from sedm.generator.pipeline import SEDMPipeline, noise_generators
from sedm.generator.process import N_TIMES, Diffusion
from sedm.generator.training import class_loss
from sedm.runtime.hardware import autocast_dtype, pick_device
from sedm.runtime.muon import Muon

from .measure import Task, count_operations, in_turns, machine, matrix_product, peak_memory, ratio, save_results
from .reference import (
    STYLE_IMAGE_SIZE,
    SwinEncoder,
    ddim_step,
    guide,
    guided_noise,
    noise_in,
    recipe_denoiser,
    recipe_loss,
    recipe_times,
    sample_recipe,
)

N_CLASSES, IMAGE_SIZE = 3, 64
QUICK = build_config("tissue", "quick")
SETTINGS = {
    "quick": (QUICK.model, 8),
    "wide": (replace(QUICK.model, channels=(64, 128, 256), condition_dim=256), 4),
}  # and images a batch
WHOLE_RUNS = 3  # rounds in which the recipe samples all its 143 steps
N_STYLE_IMAGES = (1, 4, 16)
IMAGE_SIZES = (32, 64, 128)  # px


class Workload:
    """Both networks, a batch for them, and everything that is timed, as tasks by name."""

    def __init__(self, config: ModelConfig, n: int, image_size: int = IMAGE_SIZE):
        self.config, self.n, self.image_size, self.device = config, n, image_size, pick_device()
        self.dtype = autocast_dtype(self.device)
        self.model = build_model(config, N_CLASSES, image_size, seed=0).to(self.device)
        if self.dtype is not None:  # as in training
            self.model = self.model.to(memory_format=torch.channels_last)
        self.recipe = recipe_denoiser(config, N_CLASSES, image_size).to(self.device)
        self.pipeline = SEDMPipeline.from_model(copy.deepcopy(self.model).eval()).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        self.layouts = torch.randint(N_CLASSES, (n, image_size, image_size), generator=generator, dtype=torch.uint8)
        self.layouts = self.layouts.to(self.device)
        self.images, self.noise = normal(n, 3, image_size, image_size), normal(n, 3, image_size, image_size)
        self.style_images = normal(n, config.n_style_images, 3, image_size, image_size)
        self.style_masks = self.layouts[:, None].repeat(1, config.n_style_images, 1, 1)
        self.styles = normal(*self.model.denoiser.null_styles(n).shape)
        one_token = replace(config, style_injection="film", aggregation="mean")
        self.film = build_model(one_token, N_CLASSES, image_size, seed=0).denoiser.to(self.device)
        self.recipe_styles = normal(n, 1, self.recipe.config.model.style_dim)

    # ------------------------------------------------------------------------------------------ whole runs

    def sample_ours(self) -> Task:
        """Styles from their images, then images, with the defaults of `sedm.generator.pipeline`."""
        style_images = (self.style_images.clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8).cpu()
        layouts, sampling = self.layouts.cpu(), SamplingConfig()

        def sample():
            styles = self.pipeline.encode_styles(style_images)
            generators = noise_generators(0, range(self.n))
            return self.pipeline(layouts, styles, generators, sampling.n_steps, sampling.guidance_scale, "pt")

        return sample

    def sample_recipe(self, encoder: SwinEncoder) -> Task:
        """One style image an image, encoded anew, then images."""
        return lambda: sample_recipe(self.recipe, self.layouts, encoder(self.images), self.noise)

    # ----------------------------------------------------------------------------------------------- parts

    def train_ours(self) -> Task:
        """A training step with everything that `sedm.generator.training` trains."""
        diffusion, t = Diffusion(self.config.objective), torch.arange(self.n, device=self.device) * (N_TIMES // self.n)
        x_t = diffusion.add_noise(self.images, self.noise, t)
        target, kept = diffusion.target(self.images, self.noise, t), torch.zeros_like(t, dtype=torch.bool)

        def loss() -> Tensor:
            with self.autocast(self.dtype):
                answer, class_logits = self.model(x_t, t, self.layouts, self.style_images, kept)
            errors = (answer.float() - target).square().mean(dim=(1, 2, 3))
            loss = (diffusion.loss_weights(t, max_weight=5.0) * errors).mean()
            return loss + QUICK.training.class_weight * class_loss(class_logits, self.style_masks)

        return _training_step(self.model, loss, Muon(self.model, lr=1e-6, fused=True))

    def train_recipe(self, denoiser=None, styles=None, dtype: torch.dtype | None = None) -> Task:
        """A training step of the recipe's U-Net; ``styles`` makes the styles, which are at hand when left out."""
        denoiser = copy.deepcopy(denoiser or self.recipe)
        width = denoiser.config.model.style_dim

        def loss() -> Tensor:
            with self.autocast(dtype):
                lent = self.recipe_styles[..., :width] if styles is None else styles(self.images)
                return recipe_loss(denoiser, self.images, self.layouts, lent)

        return _training_step(denoiser, loss, torch.optim.AdamW(denoiser.parameters(), lr=1e-6, fused=True))

    def step_recipe(self, guidance: str = "two evaluations", denoiser=None, dtype: torch.dtype | None = None) -> Task:
        """One DDIM step, with guidance by "two evaluations", "one batch", or "none"."""
        denoiser = denoiser or self.recipe
        diffusion, t = Diffusion(denoiser.config.model.objective), N_TIMES // 2
        styles = self.recipe_styles[..., : denoiser.config.model.style_dim]
        null, both_layouts = denoiser.null_style.detach().expand_as(styles), self.layouts.repeat(2, 1, 1)
        in_two = guided_noise(denoiser, self.layouts, styles)

        @torch.no_grad()
        def step():
            with self.autocast(dtype):
                if guidance == "two evaluations":
                    noise = in_two(self.noise, t)
                elif guidance == "one batch":
                    x_t, both = self.noise.repeat(2, 1, 1, 1), torch.cat([null, styles])
                    noise = guide(*noise_in(denoiser, diffusion, x_t, t, both_layouts, both).chunk(2))
                else:
                    noise = noise_in(denoiser, diffusion, self.noise, t, self.layouts, styles)
            return ddim_step(diffusion, noise, self.noise, t, t - 1)

        return step

    def evaluate_ours(self) -> Task:
        """One network evaluation of the pipeline's denoiser."""
        denoiser, t = self.pipeline.denoiser, torch.full((self.n,), N_TIMES // 2, device=self.device)

        @torch.no_grad()
        def evaluate():
            with self.autocast(self.dtype):
                return denoiser(self.noise, t, self.layouts, self.styles)

        return evaluate

    def encode_ours(self) -> Task:
        """The style of each image from its style images."""
        return torch.no_grad()(lambda: self.pipeline.style_encoder(self.style_images))

    def autocast(self, dtype: torch.dtype | None):
        """The context of this precision; None is float32."""
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def _training_step(network, loss_of, optimizer: torch.optim.Optimizer) -> Task:
    """Loss, gradients, clipping, a step of the optimiser and averaged weights."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    ema = EMAModel(network.parameters(), foreach=True)

    def step():
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())

    return step


def compare(config: ModelConfig, n: int, rounds: int) -> dict:
    """Both ratios, every gain alone, and the share of the peak, at one size of the U-Net."""
    work = Workload(config, n)
    swin = SwinEncoder().to(work.device)
    whole = {"recipe": work.sample_recipe(swin), "ours": work.sample_ours()}
    last = copy.deepcopy(work.recipe).to(memory_format=torch.channels_last)
    tasks = {
        "encode, Swin": lambda: swin(work.images),
        "encode, Swin at half size": _swin(work, STYLE_IMAGE_SIZE // 2),
        "encode, Swin at the image's size": _swin(work, work.image_size),
        "encode, ours": work.encode_ours(),
        "sample, recipe": work.step_recipe(),
        "sample, guidance in one batch": work.step_recipe("one batch"),
        "sample, no guidance": work.step_recipe("none"),
        "sample, channels last": work.step_recipe(denoiser=last),
        "sample, style in every block": work.step_recipe(denoiser=work.film),
        "sample, ours": work.evaluate_ours(),
        "train, recipe": work.train_recipe(styles=swin),
        "train, recipe, styles at hand": work.train_recipe(),
        "train, channels last": work.train_recipe(last),
        "train, style in every block": work.train_recipe(work.film),
        "train, ours": work.train_ours(),
        "matrix product": matrix_product(torch.float32),
    }
    if work.dtype is not None:
        tasks["sample, bfloat16"] = work.step_recipe(dtype=work.dtype)
        tasks["train, bfloat16"] = work.train_recipe(dtype=work.dtype)
        tasks["matrix product, bfloat16"] = matrix_product(work.dtype)
    seconds = in_turns(tasks, rounds)
    whole_seconds = in_turns(whole, WHOLE_RUNS, warm_up=False)  # each part has just run
    return {
        "config": {"channels": config.channels, "image_size": work.image_size, "unshuffle": config.unshuffle},
        "images_a_batch": n,
        "parameters": _count_parameters(work, swin),
        "sampling": _summary(whole_seconds, "recipe", "ours", n) | {"gains": sampling_gains(seconds, whole_seconds, n)},
        "training": _summary(seconds, "train, recipe", "train, ours", n) | {"gains": training_gains(seconds)},
        "share_of_peak": share_of_peak(tasks, seconds, n, work.dtype),
        "parts_ms_an_image": {name: 1e3 * median(one) / n for name, one in seconds.items() if "matrix" not in name},
    }


def sampling_gains(seconds: dict, whole: dict, n: int) -> dict:
    """How many times cheaper an image of the recipe becomes by one switch alone."""
    n_recipe, n_ours = len(recipe_times()), SamplingConfig().n_steps

    def cost(encode: str | None = "encode, Swin", step: str = "recipe", n_steps: int = n_recipe) -> list[float]:
        encoding = seconds[encode] if encode else [0.0] * len(seconds["sample, recipe"])
        return [a + n_steps * b for a, b in zip(encoding, seconds[f"sample, {step}"], strict=True)]

    switched = {
        f"{n_ours} steps instead of {n_recipe}": cost(n_steps=n_ours),
        "guidance in one batch": cost(step="guidance in one batch"),
        "no guidance": cost(step="no guidance"),
        "style at hand (cached)": cost(encode=None),
        "our style encoder": cost(encode="encode, ours"),
        "Swin at half size": cost(encode="encode, Swin at half size"),
        "Swin at the image's size": cost(encode="encode, Swin at the image's size"),
        "style in every block": cost(step="style in every block"),
        "channels last, float32": cost(step="channels last"),
    }
    if "sample, bfloat16" in seconds:
        switched["bfloat16"] = cost(step="bfloat16")
    gains = {"bfloat16": "not available here"} | {name: ratio(cost(), one) for name, one in switched.items()}
    of_recipe = {"predicted": median(cost()) / n, "measured": median(whole["recipe"]) / n}
    return gains | {"seconds_an_image_of_the_recipe": of_recipe}


def training_gains(seconds: dict) -> dict:
    """How many times cheaper a training step of the recipe becomes by one switch alone."""
    bare, swin = seconds["train, recipe, styles at hand"], seconds["encode, Swin"]

    def gain(encode: str | None, step: str = "train, recipe, styles at hand") -> float:
        encoding = seconds[encode] if encode else [0.0] * len(bare)
        before = [a + b for a, b in zip(swin, bare, strict=True)]
        return ratio(before, [a + b for a, b in zip(encoding, seconds[step], strict=True)])

    return {
        "styles at hand (cached)": gain(None),
        "Swin at half size": gain("encode, Swin at half size"),
        "Swin at the image's size": gain("encode, Swin at the image's size"),
        "style in every block": gain("encode, Swin", "train, style in every block"),
        "channels last, float32": gain("encode, Swin", "train, channels last"),
        "bfloat16": gain("encode, Swin", "train, bfloat16") if "train, bfloat16" in seconds else "not available here",
        "ours, against the U-Net alone": ratio(bare, seconds["train, ours"]),
    }


def share_of_peak(tasks: dict[str, Task], seconds: dict, n: int, dtype: torch.dtype | None) -> dict:
    """Arithmetic per image, and its speed as a share of a matrix product's in the same precision and rounds."""
    shares = {}
    for name in ("sample, recipe", "sample, ours", "train, recipe, styles at hand", "train, ours", "encode, Swin"):
        precision = "matrix product, bfloat16" if dtype is not None and "ours" in name else "matrix product"
        operations, of_product = count_operations(tasks[name]), count_operations(tasks[precision])
        shares[name] = {
            "gflop_an_image": operations / n / 1e9,
            "share": operations / of_product * ratio(seconds[precision], seconds[name]),
        }
    peaks = {name: count_operations(tasks[name]) / median(seconds[name]) / 1e9 for name in tasks if "matrix" in name}
    return shares | {"peak_gflop_a_second": peaks}


def cost_of_sizes(rounds: int) -> dict:
    """Milliseconds an image by image size, and by number of style images."""
    tasks, n = {}, 4
    for size in IMAGE_SIZES:
        work = Workload(QUICK.model, n, size)
        tasks[f"evaluation, {size} px"], tasks[f"training step, {size} px"] = work.evaluate_ours(), work.train_ours()
    for count in N_STYLE_IMAGES:
        work = Workload(replace(QUICK.model, n_style_images=count), n)
        tasks[f"style encoding, {count} style images"] = work.encode_ours()
        tasks[f"training step, {count} style images"] = work.train_ours()
    return {name: 1e3 * median(values) / n for name, values in in_turns(tasks, rounds).items()}


def memory_of(name: str) -> float:
    """MiB at the peak of one task of the quick setting, optimiser and averaged weights included; own process."""
    work = Workload(*SETTINGS["quick"])
    swin = SwinEncoder().to(work.device) if "recipe" in name else None
    make = {
        "train, recipe": lambda: work.train_recipe(styles=swin),
        "train, ours": work.train_ours,
        "sample, recipe": lambda: lambda: (swin(work.images), work.step_recipe()()),
        "sample, ours": lambda: lambda: (work.encode_ours()(), work.evaluate_ours()()),
    }[name]
    return peak_memory(lambda: make()())


def measure_memory() -> dict:
    """`memory_of` each task, each in a fresh process."""
    names = ("train, recipe", "train, ours", "sample, recipe", "sample, ours")
    found = {}
    for name in names:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(memory_of, (name,))
    return found


def _swin(work: Workload, size: int) -> Task:
    encoder = SwinEncoder(size).to(work.device)
    return lambda: encoder(work.images)


def _summary(seconds: dict, recipe: str, ours: str, n: int) -> dict:
    per_second = {"recipe": n / median(seconds[recipe]), "ours": n / median(seconds[ours])}
    return {"images_a_second": per_second, "times_cheaper": ratio(seconds[recipe], seconds[ours])}


def _count_parameters(work: Workload, swin: SwinEncoder) -> dict:
    networks = {"U-Net, recipe": work.recipe, "U-Net, ours": work.model.denoiser}
    networks |= {"style encoder, recipe": swin, "style encoder, ours": work.model.style_encoder}
    return {name: sum(parameter.numel() for parameter in one.parameters()) for name, one in networks.items()}


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.generator", description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    results = {}
    print(machine())
    for name in given.settings:
        results[name] = compare(*SETTINGS[name], given.rounds)
        for what in ("sampling", "training"):
            print(f"{name}, {what}: {results[name][what]['times_cheaper']:.1f} times cheaper than the recipe")
    results["ms_an_image"] = cost_of_sizes(given.rounds)
    results["memory_mib"] = measure_memory()
    print(save_results("generator", results))


if __name__ == "__main__":
    main()
