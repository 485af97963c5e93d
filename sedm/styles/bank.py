"""The style bank: style embeddings that travel without their images, and the choice of those that lend."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sedm.runtime.files import replacing


@dataclass(frozen=True)
class StyleBank:
    """Style embeddings with the group and the image that each came from.

    Raises:
        ValueError: another number of groups or image ids than embeddings, or an embedding that is not finite.

    >>> bank = StyleBank(torch.eye(3), ["a", "a", "b"], ["0", "1", "2"])
    >>> bank.rows_of("a"), bank.names
    ([0, 1], ['a', 'b'])
    """

    embeddings: Float[Tensor, "n dim"]
    groups: list[str]
    image_ids: list[str]
    model: str = ""  # hash of the model that embedded the images, where it is known

    def __post_init__(self):
        n = len(self.embeddings)
        if (len(self.groups), len(self.image_ids)) != (n, n):
            raise ValueError(f"{n} style embeddings with {len(self.groups)} groups and {len(self.image_ids)} image ids")
        if not self.embeddings.isfinite().all():
            row = int((~self.embeddings.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"the style embedding of {self.image_ids[row]} is not finite; embed its image again")

    @property
    def names(self) -> list[str]:
        """The distinct groups, in the order of their first image."""
        return list(self._rows)

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        rows = defaultdict(list)
        for row, name in enumerate(self.groups):
            rows[name].append(row)
        return dict(rows)

    def rows_of(self, group: str) -> list[int]:
        """Return the rows of one group.

        Raises:
            ValueError: a group that is not in the bank.
        """
        if group not in self._rows:
            raise ValueError(f"style group {group!r} is not in the bank; it has {', '.join(self.names[:12])}")
        return self._rows[group]

    def save(self, path: str | Path) -> Path:
        """Save the bank as a safetensors file, whole or not at all, and return its path."""
        facts = {"groups": self.groups, "image_ids": self.image_ids, "model": self.model}
        # one key: safetensors writes several in an order that changes from process to process
        with replacing(path) as temporary:
            save_file({"embeddings": self.embeddings.contiguous()}, temporary, {"style_bank": json.dumps(facts)})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> StyleBank:
        """Load the bank stored at ``path``.

        Raises:
            ValueError: not a style bank.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = StyleBank(torch.eye(2), ["a", "b"], ["0", "1"]).save(Path(folder) / "bank.safetensors")
        ...     StyleBank.load(path).groups
        ['a', 'b']
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
        facts = json.loads(metadata.get("style_bank", "{}"))
        if "embeddings" not in tensors or not {"groups", "image_ids"} <= facts.keys():
            raise ValueError(f"{path}: not a style bank (no embeddings with groups and image_ids)")
        return cls(tensors["embeddings"], **facts)


def first_rows(groups: list[str], names: list[str], n_images: int) -> Int[Tensor, "groups n"]:
    """Choose the first ``n_images`` images of each named group, again from the first where there are fewer.

    >>> first_rows(["a", "b", "a"], ["a", "b"], n_images=2)
    tensor([[0, 2],
            [1, 1]])
    """
    members = [[row for row, group in enumerate(groups) if group == name] for name in names]
    return torch.tensor([[rows[i % len(rows)] for i in range(n_images)] for rows in members])


def draw_style_rows(rows: Sequence[int], n_images: int, generator: torch.Generator) -> list[int]:
    """Draw ``n_images`` of the rows of one group, all different where the group has enough.

    Raises:
        ValueError: no rows, or none asked for.

    >>> sorted(draw_style_rows([4, 7], 2, torch.Generator().manual_seed(0)))
    [4, 7]
    """
    if not rows or n_images < 1:
        raise ValueError(f"{n_images} style images of {len(rows)}; both must be 1 or more")
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(-(-n_images // len(rows)))])
    return [rows[i] for i in order[:n_images].tolist()]


def separating_axes(embeddings: Float[Tensor, "n dim"], groups: list[str], n_axes: int = 2) -> Float[Tensor, "dim k"]:
    """Find the orthonormal axes along which the mean embeddings of groups differ most, the strongest first.

    >>> embeddings = torch.tensor([[0.0, 9.0, 0.0], [0.0, -9.0, 0.0], [4.0, 9.0, 0.1], [4.0, -9.0, 0.1]])
    >>> separating_axes(embeddings, list("aabb"), n_axes=1).abs().round(decimals=1).flatten().tolist()
    [1.0, 0.0, 0.0]
    """
    members = {name: [row for row, group in enumerate(groups) if group == name] for name in dict.fromkeys(groups)}
    means = torch.stack([embeddings[rows].mean(0) for rows in members.values()])
    return torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh[:n_axes].T
