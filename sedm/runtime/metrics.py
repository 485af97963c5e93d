"""Numbers of every training step, in a file that grows by a line a step."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from sedm.runtime.files import replacing


class Metrics:
    """Write a line of JSON a step, also for TensorBoard where installed; replace lines beyond the resumed step."""

    def __init__(self, folder: str | Path | None, first: int, enabled: bool):
        self.folder = folder
        self.first = first
        self.enabled = enabled
        self._board = None

    def __enter__(self) -> Metrics:
        if self.enabled:
            path = Path(self.folder, "metrics.jsonl")
            kept = path.read_text().splitlines()[: self.first] if path.exists() else []
            with replacing(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))
            self._file = path.open("a", buffering=1)  # a line reaches the disk as soon as it is written
            with suppress(ImportError):  # an extra; without it the file alone is written
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(Path(self.folder, "tensorboard"), purge_step=self.first)
        return self

    def write(self, step: int, loss: float, gradient_norm: float, learning_rate: float) -> None:
        """Keep the numbers of one step."""
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
