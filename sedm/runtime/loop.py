"""The one optimiser loop: any module and any loss, with a folder or without, on one process or several.

The loss of a step draws its batch from (seed, step, rank) alone. So a run that goes on from a checkpoint computes, bit
for bit, what the run without the interruption would have computed, also after ``kill -9``. On another number of
processes it would see other batches, hence every checkpoint says how many made it, and others are refused.

The generator and the autoencoder train in a folder, on the processes of `make_accelerator`. Segmentation networks and
layout priors train in this process alone (`OneProcess`) and leave no files.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import fmean

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from sedm.config import OptimiserConfig
from sedm.runtime.checkpoints import Checkpoints, count_processes
from sedm.runtime.hardware import autocast_dtype, pick_device
from sedm.runtime.metrics import Metrics
from sedm.runtime.muon import Muon
from sedm.runtime.seeds import seeded_generator

WINDOW = 20  # steps over which the loss is averaged to see an explosion


def make_accelerator() -> Accelerator:
    """Set up the processes, the device and the precision: bfloat16 where the hardware computes with it.

    >>> make_accelerator().num_processes
    1
    """
    device = pick_device()
    half = autocast_dtype(device) is not None
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")


class OneProcess:
    """Stand in for an `Accelerator` in short trainings, which every process of a launcher makes for itself.

    Precision is left to the loss.
    """

    num_processes = 1
    process_index = 0
    is_main_process = True

    def __init__(self, device: torch.device):
        self.device = device

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return both as they are."""
        return module, optimizer

    def autocast(self) -> AbstractContextManager:
        """Compute as the loss says."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of ``loss``."""
        loss.backward()

    def clip_grad_norm_(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the gradient and return the norm that it had."""
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        """Return the values as they are."""
        return values

    def wait_for_everyone(self) -> None:
        """Go on: there is nobody else."""


def optimise(
    processes: Accelerator | OneProcess,
    module: nn.Module,
    loss_of: Callable[[nn.Module, int], Tensor],
    config: OptimiserConfig,
    folder: str | Path | None = None,
    fingerprint: str = "",
    *,
    name: str = "training",
    progress: bool = True,
    on_checkpoint: Callable[[int], None] | None = None,
) -> None:
    """Train ``module`` and leave it with its averaged weights, frozen, in evaluation mode, on the CPU.

    ``folder`` receives the last checkpoints, ``metrics.jsonl`` (one line a step) and TensorBoard's event files. A
    finished run is loaded, whatever number of processes made it; an unfinished one goes on with the number that began
    it. Checkpoints of another fingerprint are left alone until this run writes its first. Without a folder nothing is
    written.

    Args:
        processes: each computes the loss of its own batch.
        loss_of: the scalar loss of a step, given the module (wrapped for several processes) and the step's number.
        config: steps, learning rate and averaging; with a folder a `ResumableConfig`, of checkpoints as well.
        fingerprint: a hash of all that decides the result.
        name: of the progress bar.
        progress: show a bar with images/s, loss and time left.
        on_checkpoint: called on the main process after each checkpoint with the number of steps made, while
            ``module`` holds the averaged weights.

    Raises:
        ValueError: another number of processes began this run.
        FloatingPointError: the loss or its gradient is no longer finite, or the loss has grown to
            ``config.max_loss_growth`` times what it was at the beginning; the last checkpoint stays.

    >>> line, config = nn.Linear(1, 1, bias=False), OptimiserConfig(n_steps=300, batch_size=4, warmup_steps=0)
    >>> loss_of = lambda model, step: (model(torch.ones(4, 1)) - 2).square().mean()
    >>> optimise(OneProcess(torch.device("cpu")), line, loss_of, config, progress=False)
    >>> line.weight.requires_grad
    False
    """
    module.to(processes.device).train()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    ema = average_weights(module, config)
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": config.fused}
    is_muon = config.optimiser == "muon"
    optimizer = Muon(module, **settings) if is_muon else torch.optim.AdamW(parameters, **settings)
    model, optimizer = processes.prepare(module, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, config))
    stateful = [module, optimizer, schedule] + ([ema] if ema else [])
    checkpoints = Checkpoints(folder, fingerprint, config, stateful, processes.num_processes)
    state = checkpoints.read_last()
    # all processes refuse at the same moment: a launcher that sees one end would kill the main one before it speaks
    processes.wait_for_everyone()
    losses = checkpoints.restore(state, config.n_steps)
    first = len(losses)
    writes = folder is not None and processes.is_main_process
    shows_progress = progress and processes.is_main_process
    if shows_progress and state and state.get("n_processes") not in (None, processes.num_processes):
        print(
            f"{name}: {folder} holds what {count_processes(state['n_processes'])} finished; it is loaded",
            file=sys.stderr,
        )
    n_images = config.batch_size * processes.num_processes  # of a step

    with (
        torch.random.fork_rng(),
        Metrics(folder, first, writes and first < config.n_steps) as metrics,
        tqdm(
            total=config.n_steps * n_images,
            desc=name,
            initial=first * n_images,
            unit="image",
            disable=not shows_progress,
        ) as bar,
    ):
        for step in range(first, config.n_steps):
            seed_global_state(seeded_generator(fingerprint, step, processes.process_index), processes.device)
            with processes.autocast():
                loss = loss_of(model, step)
            processes.backward(loss)
            clips = config.max_grad_norm > 0
            gradient_norm = float(processes.clip_grad_norm_(parameters, config.max_grad_norm)) if clips else 0.0
            losses.append(processes.reduce(loss.detach(), "mean").item())
            _stop_when_lost(losses, gradient_norm, config, checkpoints)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if ema:
                ema.step(module.parameters())
            metrics.write(step, losses[-1], gradient_norm, schedule.get_last_lr()[0])
            if shows_progress:
                bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                bar.update(n_images)
            done = step + 1
            if writes and (done % config.checkpoint_every == 0 or done == config.n_steps):
                checkpoints.save(losses)
                if on_checkpoint is not None:
                    with averaged(module, ema):
                        on_checkpoint(done)
                    module.train()

    if ema:
        ema.copy_to(module.parameters())
    module.to("cpu", memory_format=torch.contiguous_format).eval().requires_grad_(False)


def seed_global_state(generator: torch.Generator, device: torch.device) -> None:
    """Seed what draws from the global state inside a library's network, such as dropout.

    ``torch.manual_seed`` also looks for devices that are not used, which takes longer than a small step should.
    """
    torch.default_generator.manual_seed(generator.initial_seed())
    if device.type == "cuda":
        torch.cuda.manual_seed(generator.initial_seed())


def learning_rate_share(step: int, config: OptimiserConfig) -> float:
    """Return the share of the peak learning rate that a step is made with: a linear rise, then half a cosine to zero.

    >>> config = OptimiserConfig(n_steps=6, batch_size=1, warmup_steps=2)
    >>> [round(learning_rate_share(step, config), 2) for step in range(7)]
    [0.0, 0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    n_warmup = config.n_warmup_steps
    if step < n_warmup:
        return (step + config.warmup_start) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * ((step - n_warmup) / max(1, config.n_steps - n_warmup))))


def average_weights(module: nn.Module, config: OptimiserConfig):
    """Begin a moving average of the weights; None where ``config.ema_decay`` asks for none.

    Its decay rises to that of ``config`` as 1 − (1 + step)^−0.75.
    """
    if not config.ema_decay:
        return None
    from diffusers.training_utils import EMAModel  # takes seconds to import

    return EMAModel(module.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)


@contextmanager
def averaged(module: nn.Module, ema) -> Iterator[None]:
    """Let ``module`` hold its averaged weights until the block ends."""
    if ema:
        ema.store(module.parameters())
        ema.copy_to(module.parameters())
    yield
    if ema:
        ema.restore(module.parameters())


def memory_format(processes: Accelerator) -> torch.memory_format:
    """Choose the layout of weights that is faster: channels last in bfloat16, contiguous in float32."""
    return torch.channels_last if processes.mixed_precision != "no" else torch.contiguous_format


def _stop_when_lost(losses: list[float], gradient_norm: float, config: OptimiserConfig, checkpoints) -> None:
    fault = ""
    if not math.isfinite(losses[-1] + gradient_norm):
        fault = f"the loss is {losses[-1]}, its gradient's norm {gradient_norm}"
    elif config.max_loss_growth and len(losses) >= 2 * WINDOW:
        beginning, now = fmean(losses[:WINDOW]), fmean(losses[-WINDOW:])
        if now > config.max_loss_growth * beginning:
            fault = (
                f"the loss of the last {WINDOW} steps is {now:.3g}, more than {config.max_loss_growth:g} times that of "
                f"the first ({beginning:.3g})"
            )
    if fault:
        advice = f"Lower the learning rate ({config.learning_rate})."
        raise FloatingPointError(f"step {len(losses) - 1}: {fault}; {checkpoints.last_good()} {advice}")
