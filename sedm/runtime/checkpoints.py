"""Checkpoints of a training run: what it goes on from after an interruption, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sedm.config import OptimiserConfig
from sedm.runtime.files import replacing


class Checkpoints:
    """The last states of one run, each in one file that is whole or not there."""

    def __init__(
        self, folder: str | Path | None, fingerprint: str, config: OptimiserConfig, stateful: Sequence, n_processes: int
    ):
        self.folder = None if folder is None else Path(folder)
        self.fingerprint = fingerprint
        self.config = config
        self.stateful = stateful
        self.n_processes = n_processes

    def paths(self) -> list[Path]:
        """List this run's checkpoints, the latest last; there are none without a folder."""
        return [] if self.folder is None else sorted(self.folder.glob(f"checkpoint-{self.fingerprint}-*.pt"))

    def last_good(self) -> str:
        """Say in half a sentence what an interrupted run can go on from."""
        paths = self.paths()
        return f"{paths[-1]} holds the last good state." if paths else "no checkpoint had been written yet."

    def save(self, losses: list[float]) -> None:
        """Write the state after ``len(losses)`` steps, then delete what is older than the last kept."""
        path = self.folder / f"checkpoint-{self.fingerprint}-{len(losses):08d}.pt"
        states = [part.state_dict() for part in self.stateful]
        state = {"losses": losses, "states": states, "n_processes": self.n_processes}
        with replacing(path) as temporary:
            torch.save(state, temporary)
        for old in set(self.folder.glob("checkpoint-*.pt")) - set(self.paths()[-self.config.n_checkpoints :]):
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
            f"{path} was made by {count_processes(n_processes)}, but {count_processes(self.n_processes)} would go on, "
            f"in other batches and so to other weights; go on with {count_processes(n_processes)}, or {anew}"
        )


def count_processes(count: int) -> str:
    """Say how many processes there are.

    >>> count_processes(2)
    '2 processes'
    """
    return "1 process" if count == 1 else f"{count} processes"


def load_raw_weights(module: nn.Module, folder: str | Path) -> nn.Module:
    """Copy a trained ``module`` and give the copy the weights of the last step, instead of the average.

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
