"""Trained generators with what they need to draw: a layout prior and a style bank, from a folder or a hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from sedm.generator.pipeline import SEDMPipeline
from sedm.layouts import LayoutPrior, load_prior
from sedm.styles.bank import StyleBank, first_rows

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "models"
BANK = "style_bank.safetensors"
FACTS = "training.json"  # the study, and the run that trained the model
FILES = ("README.md", "*.json", "*.safetensors")  # all that is ever fetched: nothing that could be run


@dataclass(frozen=True)
class Pretrained:
    """A generator, a prior of layouts for it, and a bank of styles that it may lend."""

    name: str  # that `load_pretrained` was called with
    pipeline: SEDMPipeline
    layouts: LayoutPrior
    styles: StyleBank
    study: str = ""  # that it was trained for; "" of a run's own folder
    attribution: str = ""  # whose images it was trained on; "" where they were drawn by sedm itself

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the layout values 0…K−1."""
        return self.layouts.classes

    @property
    def image_size(self) -> int:
        """Side of images and layouts, px."""
        return self.pipeline.denoiser.config.image_size

    @cached_property
    def group_styles(self) -> Float[Tensor, "groups n_tokens dim"]:
        """One style for each group of ``styles.names``: that of its first images, as many as in training."""
        model = self.pipeline.style_encoder.config.model
        rows = first_rows(self.styles.groups, self.styles.names, model.n_style_images)
        return self.pipeline.aggregate(self.styles.embeddings[rows])

    def style_of(self, group: str) -> Float[Tensor, "1 n_tokens dim"]:
        """Return the style of one group.

        Raises:
            ValueError: a group that is not in the bank.
        """
        self.styles.rows_of(group)
        return self.group_styles[[self.styles.names.index(group)]]


def load_pretrained(name: str | Path) -> Pretrained:
    """Load a generator on the CPU: a shipped one, one in a folder, or a repository of the Hugging Face Hub.

    Args:
        name: of a shipped one in ``data/models/``, which needs no network; a folder that `sedm.sharing.packing` or a
            run (``data/runs/tissue/quick``) wrote; or a hub id, of which only settings, weights and card are fetched.

    Raises:
        ValueError: no such name, or a folder that lacks a part or holds parts that do not fit each other.

    >>> load_pretrained("no/such/folder/at/all")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: 'no/such/folder/at/all' is no folder and no hub id (owner/name); shipped models: ...
    """
    folder = _find(str(name))
    model = folder / "model"
    pipeline = SEDMPipeline.from_pretrained(model if model.is_dir() else folder)
    pipeline.set_progress_bar_config(disable=True)
    facts = json.loads((folder / FACTS).read_text()) if (folder / FACTS).is_file() else {}
    pretrained = Pretrained(
        name=str(name),
        pipeline=pipeline,
        layouts=load_prior(folder),
        styles=StyleBank.load(folder / BANK),
        study=facts.get("study", ""),
        attribution=facts.get("attribution", ""),
    )
    _check(pretrained, folder)
    return pretrained


def shipped_models() -> list[str]:
    """List the generators that come with the code.

    >>> isinstance(shipped_models(), list)
    True
    """
    return sorted(path.parent.name for path in SHIPPED.glob("*/model_index.json"))


def _find(name: str) -> Path:
    """Find the folder of a generator, fetched from the hub where it is nowhere here."""
    if Path(name).is_dir():
        return Path(name)
    if name in shipped_models():
        return SHIPPED / name
    if name.count("/") != 1 or not all(name.split("/")):
        shipped = ", ".join(shipped_models()) or "none here"
        raise ValueError(f"{name!r} is no folder and no hub id (owner/name); shipped models: {shipped}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # the hub's own errors have no common base, and the network's come on top
        reason = (str(error).split("\n") or [""])[0]
        raise ValueError(f"{name!r} is no folder, and cannot be had from the hub ({reason})") from error


def _check(pretrained: Pretrained, folder: Path) -> None:
    """Refuse a prior or a bank that does not fit the model."""
    settings = pretrained.pipeline.denoiser.config
    size = pretrained.image_size
    if tuple(pretrained.layouts.size) != (size, size) or len(pretrained.classes) != settings.n_classes:
        raise ValueError(
            f"{folder}: its layout prior draws {len(pretrained.classes)} classes at {pretrained.layouts.size} px, but "
            f"its model takes {settings.n_classes} at {size}; both must come from one run"
        )
    length = pretrained.styles.embeddings.shape[1]
    model_length = pretrained.pipeline.style_encoder.embedding_dim
    if length != model_length:
        raise ValueError(
            f"{folder}: style embeddings of length {length}, its model's have {model_length}; embed the images again"
        )
