"""Training the generator: one loop, with accelerate, that an interruption does not change.

    x_0 image, ℓ its layout, s the style of images of the same group, noise ~ N(0, 1), t uniform
    x_t = α_t·x_0 + σ_t·noise
    minimise  w_t ‖ model(x_t, t, ℓ, s) − x_0 ‖²   over denoiser, style encoder and aggregation *together*

Batch b of process r is a function of (seed, b, r), so a run that is resumed from a checkpoint computes what the
run without the interruption would have computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from sedm.config import Config, TrainingConfig, autocast_dtype, pick_device
from sedm.data.patches import UNKNOWN
from sedm.data.tensors import PatchTensors
from sedm.files import replacing
from sedm.model import StyleDiffusion, build_model, loss_weights, noise_schedule
from sedm.seeds import seeded_generator
from sedm.styles import StyleSampler


def train_model(
    config: Config, patches: PatchTensors, n_classes: int, folder: str | Path, progress: bool = True
) -> StyleDiffusion:
    """The trained model with averaged weights, in evaluation mode on the CPU.

    ``folder`` receives ``checkpoint.pt`` and ``metrics.jsonl``. A run that finds a checkpoint of its own
    configuration and data goes on from there, and does nothing when that checkpoint is the last one.

    Args:
        patches: annotated and unannotated images; the latter train with the null layout.
        n_classes: layout values 0…n_classes−1.
        progress: show a bar with images/s, loss and time left.

    Raises:
        ValueError: images of another size than ``config.data.image_size``, or no annotated image.
        FloatingPointError: the loss or its gradient is no longer finite; the last checkpoint stays.
    """
    check_training_data(config, patches, n_classes)
    settings = config.training
    half = autocast_dtype(pick_device()) is not None
    accelerator = Accelerator(cpu=pick_device().type == "cpu", mixed_precision="bf16" if half else "no")
    device, rank = accelerator.device, accelerator.process_index
    # channels last is the faster layout in bfloat16, the slower one in float32
    layout = torch.channels_last if half else torch.contiguous_format
    bare_model = build_model(config.model, n_classes, config.data.image_size, config.seed)
    bare_model = bare_model.to(device, memory_format=layout)
    ema = EMAModel(bare_model.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    optimizer = torch.optim.AdamW(bare_model.parameters(), lr=settings.learning_rate, fused=True)
    model, optimizer = accelerator.prepare(bare_model, optimizer)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.n_steps)
    checkpoint = Checkpoint(Path(folder), run_fingerprint(config, patches, n_classes), accelerator)
    history = checkpoint.load(bare_model, ema, optimizer, schedule)
    sampler = StyleSampler(patches, settings.style_sampling, settings.n_style_images)
    pools, noising = batch_pools(patches, settings), noise_schedule()

    bar = tqdm(
        range(len(history), settings.n_steps),
        "training",
        settings.n_steps,
        initial=len(history),
        unit="image",
        unit_scale=settings.batch_size,
        disable=not (progress and accelerator.is_main_process),
    )
    for step in bar:
        generator = seeded_generator("training batch", config.seed, step, rank)
        batch, x_0 = training_batch(patches, pools, sampler, noising, settings.style_dropout, generator)
        with accelerator.autocast():
            clean = model(*(tensor.to(device) for tensor in batch))
        errors = (clean.float() - x_0.to(device)).square().mean(dim=(1, 2, 3))
        loss = (loss_weights(noising, batch[1].to(device)) * errors).mean()
        accelerator.backward(loss)
        gradient_norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        if not torch.isfinite(loss + gradient_norm):
            raise FloatingPointError(
                f"step {step}: the loss is {loss.item()}, its gradient's norm {float(gradient_norm)}; "
                f"{checkpoint.path} holds the last good state. Lower the learning rate ({settings.learning_rate})."
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(bare_model.parameters())
        history.append({"step": step, "loss": loss.item(), "gradient_norm": float(gradient_norm)})
        bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.n_steps:
            checkpoint.save(history, bare_model, ema, optimizer, schedule)

    ema.copy_to(bare_model.parameters())
    return bare_model.to("cpu").eval().requires_grad_(False)


def training_batch(
    patches: PatchTensors,
    pools: list[tuple[Tensor, int]],
    sampler: StyleSampler,
    noising: DDPMScheduler,
    style_dropout: float,
    generator: torch.Generator,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """((x_t, t, layout, style_images, drop_style), x_0): what the model gets, and what it should answer."""
    rows = [pool[torch.randint(len(pool), (count,), generator=generator)] for pool, count in pools]
    rows = torch.cat(rows).tolist()
    x_0 = patches.images[rows].float() / 127.5 - 1
    noise = torch.randn(x_0.shape, generator=generator)
    t = torch.randint(noising.config.num_train_timesteps, (len(rows),), generator=generator)
    style_images = sampler.draw_images(rows, generator)
    drop_style = sampler.draw_dropped(len(rows), style_dropout, generator)
    x_t = noising.add_noise(x_0, noise, t)
    return (x_t, t, patches.masks[rows], style_images, drop_style), x_0


def batch_pools(patches: PatchTensors, config: TrainingConfig) -> list[tuple[Tensor, int]]:
    """(rows, how many of them a batch takes): annotated rows, then the others where there are any.

    Layouts are learned from annotated rows alone, so they must not drown among thousands of others.

    >>> images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    >>> masks = torch.tensor([0, UNKNOWN, UNKNOWN], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    >>> batch_pools(PatchTensors(images, masks, list("abc")), TrainingConfig(batch_size=8, annotated_fraction=0.25))
    [(tensor([0]), 2), (tensor([1, 2]), 6)]
    """
    has_mask = patches.has_mask
    annotated, others = has_mask.nonzero().flatten(), (~has_mask).nonzero().flatten()
    n_annotated = round(config.batch_size * config.annotated_fraction) if len(others) else config.batch_size
    pools = [(annotated, n_annotated), (others, config.batch_size - n_annotated)]
    return [(rows, count) for rows, count in pools if count]


def check_training_data(config: Config, patches: PatchTensors, n_classes: int) -> None:
    """None, when ``patches`` can train a model of this configuration.

    Raises:
        ValueError: another image size, no annotated image, or a mask value outside the classes.
    """
    size = config.data.image_size
    if tuple(patches.images.shape[2:]) != (size, size):
        raise ValueError(f"images of {tuple(patches.images.shape[2:])} px, but data.image_size={size}")
    if not patches.has_mask.any():
        raise ValueError("no annotated image: layouts cannot be learned; give at least one group its masks")
    for part in patches.masks.split(1024):  # a large table is mapped from a file: never all of it at once
        known = part[part != UNKNOWN]
        if len(known) and known.max() >= n_classes:
            raise ValueError(f"a mask holds {known.max()}, which is outside the classes 0..{n_classes - 1}")


def run_fingerprint(config: Config, patches: PatchTensors, n_classes: int) -> str:
    """A hash of all that decides the trained weights: seed, model and training settings, and the data."""
    decisive = [n_classes, config.seed, *map(dataclasses.asdict, (config.model, config.training))]
    digest = hashlib.sha256(json.dumps(decisive).encode())
    for pixels in (patches.images, patches.masks):
        digest.update(pixels.contiguous().numpy())
    digest.update("\n".join(patches.groups).encode())
    return digest.hexdigest()


class Checkpoint:
    """The state of one run in one file, replaced whole."""

    def __init__(self, folder: Path, fingerprint: str, accelerator: Accelerator):
        self.path = folder / "checkpoint.pt"
        self.fingerprint = fingerprint
        self.accelerator = accelerator
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, history: list[dict], *stateful) -> None:
        """Writes the state and the metrics so far; a process that dies here leaves the previous ones."""
        if not self.accelerator.is_main_process:
            return
        state = {"fingerprint": self.fingerprint, "history": history, "states": [one.state_dict() for one in stateful]}
        with replacing(self.path) as temporary:
            torch.save(state, temporary)
        with replacing(self.path.with_name("metrics.jsonl")) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in history))

    def load(self, *stateful) -> list[dict]:
        """The metrics of the steps already made, after restoring their outcome; none for a new run."""
        if not self.path.exists():
            return []
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            return []  # another configuration or other data: start anew
        for one, values in zip(stateful, state["states"], strict=True):
            one.load_state_dict(values)
        return state["history"]
