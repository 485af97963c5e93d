"""The training loop: any module and any loss, on one process or several, and an interruption changes nothing.

The loss of a step draws its batch from (seed, step, rank) alone. So a run that goes on from a checkpoint computes,
bit for bit, what the run without the interruption would have computed, also after ``kill -9``. On another number of
processes it would see other batches, hence every checkpoint says how many made it, and others are refused.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import fmean

import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from sedm.config import TrainingConfig
from sedm.runtime.files import replacing
from sedm.runtime.hardware import autocast_dtype, pick_device
from sedm.runtime.seeds import seeded_generator

EXPLOSION = 3.0  # times the mean loss at the beginning
WINDOW = 20  # steps over which the loss is averaged to see an explosion


def make_accelerator() -> Accelerator:
    """The processes, the device and the precision of this run: bfloat16 where the hardware computes with it.

    >>> make_accelerator().num_processes
    1
    """
    device = pick_device()
    half = autocast_dtype(device) is not None
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")


def optimise(
    accelerator: Accelerator,
    module: nn.Module,
    loss_of: Callable[[nn.Module, int], Tensor],
    settings: TrainingConfig,
    folder: str | Path,
    fingerprint: str,
    *,
    name: str = "training",
    progress: bool = True,
    on_checkpoint: Callable[[int], None] | None = None,
) -> None:
    """Train ``module``, which then holds its averaged weights (EMA), in evaluation mode, on the CPU.

    ``folder`` receives the last checkpoints, ``metrics.jsonl`` (one line a step) and TensorBoard's event files. A
    finished run is loaded, whatever number of processes made it; an unfinished one goes on with the number that began
    it. Checkpoints of another fingerprint are left alone until this run writes its first.

    Args:
        accelerator: of `make_accelerator`; each process computes the loss of its own batch.
        loss_of: the scalar loss of a step, given the module (wrapped for several processes) and the step's number.
        settings: its steps, batch size (for the bar), learning rate, clipping, averaging and checkpoints are used.
        fingerprint: a hash of all that decides the result.
        on_checkpoint: called on the main process after each checkpoint with the number of steps made, while
            ``module`` holds the averaged weights.

    Raises:
        ValueError: another number of processes began this run.
        FloatingPointError: the loss or its gradient is no longer finite, or the loss has grown to ``EXPLOSION``
            times what it was at the beginning; the last checkpoint stays.

    >>> import tempfile
    >>> line, settings = nn.Linear(1, 1, bias=False), TrainingConfig(n_steps=3, warmup_steps=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loss_of = lambda model, step: (model(torch.ones(4, 1)) - 2).square().mean()
    ...     optimise(make_accelerator(), line, loss_of, settings, folder, "doubling", progress=False)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['checkpoint-doubling-00000003.pt', 'metrics.jsonl', 'tensorboard']
    """
    # channels last is the faster layout in bfloat16, the slower one in float32
    half = accelerator.mixed_precision != "no"
    module.to(accelerator.device, memory_format=torch.channels_last if half else torch.contiguous_format).train()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    ema = EMAModel(module.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, fused=True)
    model, optimizer = accelerator.prepare(module, optimizer)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.n_steps)
    stateful = (module, ema, optimizer, schedule)
    checkpoints = Checkpoints(folder, fingerprint, settings.n_checkpoints, stateful, accelerator.num_processes)
    state = checkpoints.read_last()
    # all processes refuse at the same moment: a launcher that sees one end would kill the main one before it speaks
    accelerator.wait_for_everyone()
    losses = checkpoints.restore(state, settings.n_steps)
    first = len(losses)
    shows_progress = progress and accelerator.is_main_process
    if shows_progress and state and state.get("n_processes") not in (None, accelerator.num_processes):
        print(f"{name}: {folder} holds what {_processes(state['n_processes'])} finished; it is loaded", file=sys.stderr)

    with (
        torch.random.fork_rng(),
        Metrics(folder, first, accelerator.is_main_process and first < settings.n_steps) as metrics,
        tqdm(
            total=settings.n_steps * settings.batch_size * accelerator.num_processes,
            desc=name,
            initial=first * settings.batch_size * accelerator.num_processes,
            unit="image",
            disable=not shows_progress,
        ) as bar,
    ):
        for step in range(first, settings.n_steps):
            # for what draws from the global state inside a library's network, such as dropout
            torch.manual_seed(seeded_generator(fingerprint, step, accelerator.process_index).initial_seed())
            with accelerator.autocast():
                loss = loss_of(model, step)
            accelerator.backward(loss)
            gradient_norm = float(accelerator.clip_grad_norm_(parameters, settings.max_grad_norm))
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
            _stop_when_lost(losses, gradient_norm, settings, checkpoints)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            ema.step(module.parameters())
            metrics.write(step, losses[-1], gradient_norm, schedule.get_last_lr()[0])
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update(settings.batch_size * accelerator.num_processes)
            done = step + 1
            if (done % settings.checkpoint_every == 0 or done == settings.n_steps) and accelerator.is_main_process:
                checkpoints.save(losses)
                if on_checkpoint is not None:
                    ema.store(module.parameters())
                    ema.copy_to(module.parameters())
                    on_checkpoint(done)
                    ema.restore(module.parameters())
                    module.train()

    ema.copy_to(module.parameters())
    module.to("cpu", memory_format=torch.contiguous_format).eval().requires_grad_(False)


def _stop_when_lost(losses: list[float], gradient_norm: float, settings: TrainingConfig, checkpoints) -> None:
    step, advice = len(losses) - 1, f"Lower the learning rate ({settings.learning_rate})."
    if not math.isfinite(losses[-1] + gradient_norm):
        raise FloatingPointError(
            f"step {step}: the loss is {losses[-1]}, its gradient's norm {gradient_norm}; {checkpoints.last_good()} "
            + advice
        )
    if len(losses) >= 2 * WINDOW and fmean(losses[-WINDOW:]) > EXPLOSION * fmean(losses[:WINDOW]):
        raise FloatingPointError(
            f"step {step}: the loss of the last {WINDOW} steps is {fmean(losses[-WINDOW:]):.3g}, more than "
            f"{EXPLOSION:g} times that of the first ({fmean(losses[:WINDOW]):.3g}); {checkpoints.last_good()} " + advice
        )


class Checkpoints:
    """The last states of one run, each in one file that is whole or not there."""

    def __init__(self, folder: str | Path, fingerprint: str, n_kept: int, stateful: tuple, n_processes: int):
        self.folder, self.fingerprint, self.n_kept, self.stateful = Path(folder), fingerprint, n_kept, stateful
        self.n_processes = n_processes

    def paths(self) -> list[Path]:
        """This run's checkpoints, the latest last."""
        return sorted(self.folder.glob(f"checkpoint-{self.fingerprint}-*.pt"))

    def last_good(self) -> str:
        """Half a sentence on what an interrupted run can go on from."""
        paths = self.paths()
        return f"{paths[-1]} holds the last good state." if paths else "no checkpoint had been written yet."

    def save(self, losses: list[float]) -> None:
        """Write the state after ``len(losses)`` steps, then delete what is older than the last kept."""
        path = self.folder / f"checkpoint-{self.fingerprint}-{len(losses):08d}.pt"
        states = [one.state_dict() for one in self.stateful]
        state = {"losses": losses, "states": states, "n_processes": self.n_processes}
        with replacing(path) as temporary:
            torch.save(state, temporary)
        for old in set(self.folder.glob("checkpoint-*.pt")) - set(self.paths()[-self.n_kept :]):
            old.unlink()

    def read_last(self) -> dict | None:
        """Read the latest checkpoint of this run; a new run has none."""
        paths = self.paths()
        return torch.load(paths[-1], map_location="cpu", weights_only=True) if paths else None

    def restore(self, state: dict | None, n_steps: int) -> list[float]:
        """Take over ``state`` and return the losses of the steps already made, none for a new run.

        Raises:
            ValueError: there are steps left of ``n_steps``, and another number of processes made the first ones.
        """
        if state is None:
            return []
        if len(state["losses"]) < n_steps:
            self._refuse_other_processes(state.get("n_processes"))
        for part, values in zip(self.stateful, state["states"], strict=True):
            part.load_state_dict(values)
        return state["losses"]

    def _refuse_other_processes(self, n_processes: int | None) -> None:
        if n_processes == self.n_processes:
            return
        path = self.paths()[-1]
        anew = "start anew in another folder or without its checkpoints"
        if n_processes is None:
            raise ValueError(f"{path} does not say how many processes made it, as an older version left it; {anew}")
        raise ValueError(
            f"{path} was made by {_processes(n_processes)}, but {_processes(self.n_processes)} would go on, in other "
            f"batches and so to other weights; go on with {_processes(n_processes)}, or {anew}"
        )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def load_raw_weights(module: nn.Module, folder: str | Path) -> nn.Module:
    """A copy of a trained ``module`` with the weights of the last step, instead of the average that it holds.

    Raises:
        ValueError: no checkpoint in ``folder``.

    >>> load_raw_weights(nn.Linear(1, 1), "no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder: no checkpoint; expected the folder of a training run
    """
    paths = sorted(Path(folder).glob("checkpoint-*.pt"))
    if not paths:
        raise ValueError(f"{folder}: no checkpoint; expected the folder of a training run")
    weights, *_ = torch.load(paths[-1], map_location="cpu", weights_only=True)["states"]
    copied = copy.deepcopy(module)
    copied.load_state_dict(weights)
    return copied


class Metrics:
    """Write a line of JSON a step, also for TensorBoard where installed; replace lines beyond the resumed step."""

    def __init__(self, folder: str | Path, first: int, enabled: bool):
        self.folder, self.first, self.enabled = Path(folder), first, enabled
        self._board = None

    def __enter__(self) -> Metrics:
        if self.enabled:
            path = self.folder / "metrics.jsonl"
            kept = path.read_text().splitlines()[: self.first] if path.exists() else []
            with replacing(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))
            self._file = path.open("a", buffering=1)  # a line reaches the disk as soon as it is written
            with suppress(ImportError):  # an extra; without it the file alone is written
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(self.folder / "tensorboard", purge_step=self.first)
        return self

    def write(self, step: int, loss: float, gradient_norm: float, learning_rate: float) -> None:
        """Keeps the numbers of one step."""
        if self.enabled:
            values = {"loss": loss, "gradient_norm": gradient_norm, "learning_rate": learning_rate}
            self._file.write(json.dumps({"step": step} | values) + "\n")
            if self._board:
                for key, value in values.items():
                    self._board.add_scalar(f"training/{key}", value, step)

    def __exit__(self, *error) -> None:
        if self.enabled:
            self._file.close()
            if self._board:
                self._board.close()
