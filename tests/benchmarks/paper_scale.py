"""A few steps of every stage at the reference's true sizes: seconds, memory, and what a GPU would take.

    python -m tests.benchmarks.paper_scale [--preset paper] [--steps 3] [--stages autoencoder generator …]

Each stage is a process of its own: training of the autoencoder, of the generator on its latents (stopped after the
first checkpoint and taken up again), one image sampled and decoded, training of the segmentation network. Images are
random, which changes neither time nor memory. Seconds are those of the second step and later ones. What data-centre
GPUs would take is *computed*: operations of all steps, counted on shapes alone, divided by the peak in bfloat16 and by
the share of it that is assumed. Written to ``figures/benchmarks/paper_scale.json``; stages that were not asked for stay
as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sedm.config import Config, build_config
from sedm.data.patches import Patches

from .measure import FOLDER, count_operations, save_results

PEAK = 989e12  # operations a second in bfloat16, dense; NVIDIA's data sheet of the H100 SXM, which says it for sparse
SHARE = 0.4  # of that peak, assumed
N_IMAGES, N_GROUPS = 8, 2


def configuration(preset: str, n_steps: int) -> Config:
    """The preset, cut to a few steps, with a checkpoint after the first."""
    config = build_config("tissue", preset)
    few = {"n_steps": n_steps}
    return replace(
        config,
        autoencoder=replace(config.autoencoder, **few, checkpoint_every=n_steps),
        training=replace(config.training, **few, checkpoint_every=1, n_checkpoints=1),
        segmentation=replace(config.segmentation, **few),
    )


def random_patches(size: int) -> Patches:
    """Images of noise and masks of three classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (N_IMAGES, 3, size, size), dtype=torch.uint8, generator=generator)
    masks = torch.randint(3, (N_IMAGES, size, size), dtype=torch.uint8, generator=generator)
    return Patches(images, masks, [f"patient-{row % N_GROUPS}" for row in range(N_IMAGES)], ("a", "b", "c"))


class Stopwatch:
    """Notes when each step of a training begins, by what every step draws first."""

    def __init__(self):
        self.times: list[float] = []

    def __call__(self, function: Callable) -> Callable:
        def timed(*arguments, **options):
            self.times.append(time.perf_counter())
            return function(*arguments, **options)

        return timed

    def seconds(self) -> list[float]:
        """Seconds of each step but the first, whose memory is new, and the last, whose end is not seen."""
        return [later - earlier for earlier, later in zip(self.times[1:], self.times[2:], strict=False)]


def train_own_autoencoder(config: Config, folder: Path, watch: Stopwatch) -> dict:
    """Train the autoencoder for a few steps, and encode all images."""
    from sedm.generator import autoencoder

    autoencoder.seeded_generator = watch(autoencoder.seeded_generator)
    patches = random_patches(config.data.image_size)
    network = autoencoder.train_autoencoder(config, patches, folder / "autoencoder", progress=False)
    start = time.perf_counter()
    latents = autoencoder.encode_images(network, patches.images, batch_size=1)
    return {"latents": list(latents.shape[1:]), "seconds_to_encode": (time.perf_counter() - start) / len(latents)}


def train_on_latents(config: Config, folder: Path, watch: Stopwatch) -> dict:
    """Train the generator, stop it after the first checkpoint, take it up again, and save the pipeline."""
    from sedm.generator import training
    from sedm.generator.autoencoder import build_autoencoder
    from sedm.generator.pipeline import SEDMPipeline

    class Stopped(Exception):
        pass

    def stop(pipeline, n_steps):
        raise Stopped

    network = build_autoencoder(config.autoencoder, seed=0).requires_grad_(False) if config.model.autoencoder else None
    patches = random_patches(config.data.image_size)
    training.save_sample_sheet = lambda *arguments: None  # an image sampled is a stage of its own
    training.training_batch = watch(training.training_batch)
    options = {"autoencoder": network, "progress": False}
    is_resumed = False
    try:
        training.train_model(config, patches, folder / "generator", (), on_checkpoint=stop, **options)
    except Stopped:
        is_resumed = True
    model = training.train_model(config, patches, folder / "generator", (), **options)
    SEDMPipeline.from_model(model, network).save_pretrained(folder / "model")
    parts = {"denoiser": model.denoiser, "style_encoder": model.style_encoder}
    return {"is_resumed": is_resumed, "n_parameters": {name: count(part) for name, part in parts.items()}}


def draw_one(config: Config, folder: Path, watch: Stopwatch) -> dict:
    """Sample one image and decode it, by the pipeline that the stage before saved."""
    from sedm.generator.pipeline import SEDMPipeline, noise_generators

    pipeline, patches = SEDMPipeline.from_pretrained(folder / "model"), random_patches(config.data.image_size)
    pipeline.denoiser.forward = watch(pipeline.denoiser.forward)
    start = time.perf_counter()
    style = pipeline.encode_styles(patches.images[None, : config.sampling.n_style_images])
    options = {"num_inference_steps": config.sampling.n_steps, "output_type": "pt"}
    images = pipeline(patches.masks[:1], style, noise_generators(0, [0]), **options).images
    return {"image": list(images.shape[1:]), "seconds_an_image": time.perf_counter() - start}


def train_segmentation(config: Config, folder: Path, watch: Stopwatch) -> dict:
    """Train the segmentation network for a few steps."""
    from sedm.segmentation import segmenter

    segmenter.seeded_generator = watch(segmenter.seeded_generator)
    patches = random_patches(config.data.image_size)
    network = segmenter.train_segmenter(patches, config.segmentation, seed=0, progress=False)
    return {"n_parameters": {config.segmentation.network: count(network)}}


STAGES = {
    "autoencoder": train_own_autoencoder,
    "generator": train_on_latents,
    "sampling": draw_one,
    "segmentation": train_segmentation,
}


def count(network: torch.nn.Module) -> int:
    """The numbers that a network has learned."""
    return sum(parameter.numel() for parameter in network.parameters())


def operations_an_image(config: Config) -> dict[str, int]:
    """Operations of one step for one image, forward and backward, counted on tensors with shapes and no content."""
    from sedm.generator.autoencoder import AutoencoderLoss, build_autoencoder, latent_shape
    from sedm.generator.denoiser import build_model
    from sedm.segmentation.networks import build_segmenter

    size = config.data.image_size
    autoencoder = build_autoencoder(config.autoencoder, seed=0)
    latents = latent_shape(autoencoder, size)
    own, network = AutoencoderLoss(autoencoder, 0.0), build_segmenter(config.segmentation, 3, 0)
    model = build_model(config.model, 3, size, 0, latents if config.model.autoencoder else None)
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # tables of the schedule stay what they are
    for part in (own, network, model):
        empty(part, mode)
    with mode:
        channels, side = latents if config.model.autoencoder else (3, size)
        images, z = torch.rand(1, 3, size, size), torch.rand(1, latents[0], latents[1], latents[1])
        x_t, t, layout = torch.rand(1, channels, side, side), torch.zeros(1).long(), images[:, 0].byte()
        styles, is_null = images[:, None].repeat(1, config.model.n_style_images, 1, 1, 1), torch.zeros(1).bool()
        return {
            "autoencoder": count_operations(lambda: own(images, z).backward()),
            "generator": count_operations(lambda: model(x_t, t, layout, styles, is_null)[0].sum().backward()),
            "segmentation": count_operations(lambda: network(images).sum().backward()),
        }


def empty(module: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Take the numbers out of a module's tensors, and leave their shapes."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(mode.from_tensor(value.detach()), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = mode.from_tensor(value)


def computed_hours(preset: str) -> dict[str, dict[str, float]]:
    """Hours that each training of a preset would take on 1 and on 8 GPUs, computed and never measured."""
    config = build_config("tissue", preset)
    settings = {"autoencoder": config.autoencoder, "generator": config.training, "segmentation": config.segmentation}
    hours = {}
    for stage, operations in operations_an_image(config).items():
        n_images = settings[stage].n_steps * settings[stage].batch_size
        one = operations * n_images / (SHARE * PEAK) / 3600
        hours[stage] = {"operations_an_image": operations, "images": n_images, "1 GPU": one, "8 GPUs": one / 8}
    return hours


def work(stage: str, preset: str, n_steps: int, folder: Path) -> None:
    """One stage, in this process; prints what it found as JSON."""
    watch = Stopwatch()
    found = STAGES[stage](configuration(preset, n_steps), folder, watch)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found |= {"seconds_a_step": watch.seconds(), "peak_mib": int(peak.split()[1]) / 1024}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.paper_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--folder", type=Path, help="keeps what is trained; a temporary one when left out")
    parser.add_argument("--worker", choices=STAGES, help="for the launched processes")
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.preset, given.steps, given.folder)
        return
    path = FOLDER / "paper_scale.json"
    known = json.loads(path.read_text())["results"] if path.exists() else {}
    results = {"computed": {"share_of_peak": SHARE, "peak": PEAK, "hours": computed_hours(given.preset)}}
    results["stages"] = known.get("stages", {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(given.folder or temporary)
        for stage in given.stages:
            command = ["tests.benchmarks.paper_scale", "--worker", stage, "--preset", given.preset]
            command = [sys.executable, "-m", *command, "--steps", str(given.steps), "--folder", folder]
            ended = subprocess.run(command, env=os.environ, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(ended.stdout.strip().splitlines()[-1])
            results["stages"][stage] = found | {"preset": given.preset}
            seconds = median(found["seconds_a_step"]) if found["seconds_a_step"] else float("nan")
            print(f"{stage}: {seconds:.1f} s a step, {found['peak_mib']:.0f} MiB at the peak", flush=True)
            print(save_results("paper_scale", results))


if __name__ == "__main__":
    main()
