"""Layout priors: label maps that nobody drew, yet plausible, to be given to the generator.

A prior is fitted on annotated masks and sampled by ``(seed, index)``: layout 17 is the same layout whatever
the number asked for at once. There is one prior so far, the empirical one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sedm.data.augment import AffineRange, warp
from sedm.data.patches import UNKNOWN
from sedm.files import replacing
from sedm.seeds import seeded_generator

RANGE = AffineRange(shear=10.0)

_FILE_NAME = "layout_prior.safetensors"


class EmpiricalPrior:
    """Layouts resampled from annotated masks by flips and affine transforms, borders reflected.

    Source: the augmentation of Öttl et al. 2024 (arXiv 2403.14429) for the layouts of unannotated styles,
    here also with flips, a milder shear (±10° for ±20°) and no balancing of classes.

    >>> masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    >>> masks[:, 4:12, 4:12] = 1
    >>> prior = EmpiricalPrior.fit(masks, n_classes=2)
    >>> layouts = prior.sample(5, seed=0)
    >>> layouts.shape, layouts.unique().tolist(), layouts[3].equal(prior.sample(1, seed=0, first=3)[0])
    (torch.Size([5, 16, 16]), [0, 1], True)
    """

    def __init__(self, masks: UInt8[Tensor, "n h w"], n_classes: int):
        self.masks = masks
        self.n_classes = n_classes

    @classmethod
    def fit(cls, masks: UInt8[Tensor, "n h w"], n_classes: int) -> EmpiricalPrior:
        """The prior over these masks.

        Args:
            masks: (n, h, w), uint8, class indices 0…n_classes−1, fully annotated.

        Raises:
            ValueError: no masks, or a mask with a pixel that is unannotated or outside the classes.

        >>> EmpiricalPrior.fit(torch.ones(3, 8, 8, dtype=torch.uint8), n_classes=2).masks.shape
        torch.Size([3, 8, 8])
        """
        if masks.ndim != 3 or masks.dtype != torch.uint8 or masks.numel() == 0:
            raise ValueError(
                f"masks of shape {tuple(masks.shape)} and type {masks.dtype}; a layout prior needs at least "
                "one annotated mask as uint8 (n, h, w)"
            )
        highest = masks.flatten(1).amax(1)
        if (highest >= n_classes).any():
            row = int((highest >= n_classes).nonzero()[0])
            if highest[row] == UNKNOWN:
                problem = f"has unannotated pixels ({UNKNOWN}); fit on fully annotated masks only"
            else:
                problem = f"holds {int(highest[row])}, which is outside the classes 0..{n_classes - 1}"
            raise ValueError(f"mask {row} {problem}")
        return cls(masks.clone(), n_classes)

    def sample(self, n: int, *, seed: int, first: int = 0) -> UInt8[Tensor, "n h w"]:
        """Layouts ``first``…``first + n − 1`` of this seed, (n, h, w), uint8, class indices 0…n_classes−1.

        Each is a function of (seed, its index) alone. Classes survive exactly (nearest neighbour).

        Raises:
            ValueError: a negative n, seed or first.

        >>> EmpiricalPrior.fit(torch.ones(1, 8, 8, dtype=torch.uint8), n_classes=2).sample(2, seed=0)[1, 0]
        tensor([1, 1, 1, 1, 1, 1, 1, 1], dtype=torch.uint8)
        """
        if min(n, seed, first) < 0:
            raise ValueError(f"n={n}, seed={seed}, first={first}; all three must be 0 or more")
        layouts = torch.empty(n, *self.masks.shape[1:], dtype=torch.uint8)
        # One at a time: in a batch, rounding may depend on the batch's size and move a border by a pixel.
        for i in range(n):
            layouts[i] = self._layout(seeded_generator("layout", seed, first + i))
        return layouts

    def _layout(self, generator: torch.Generator) -> UInt8[Tensor, "h w"]:
        row = int(torch.randint(len(self.masks), (), generator=generator))
        matrix, shift = RANGE.draw(self.masks.shape[1:], generator)
        return warp(self.masks[row][None], matrix, shift, mode="nearest")[0]

    def save(self, folder: str | Path) -> Path:
        """The file that now holds this prior, inside ``folder``; written whole or not at all.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     EmpiricalPrior.fit(torch.ones(1, 8, 8, dtype=torch.uint8), n_classes=2).save(folder).name
        'layout_prior.safetensors'
        """
        from safetensors.torch import save_file

        path = Path(folder) / _FILE_NAME
        metadata = {"layout_prior": "empirical", "n_classes": str(self.n_classes)}
        with replacing(path) as temporary:
            save_file({"masks": self.masks.contiguous()}, temporary, metadata=metadata)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> EmpiricalPrior:
        """The prior that ``save`` wrote to ``folder``.

        Raises:
            ValueError: no such file, an unreadable one, or one that holds something else.

        >>> EmpiricalPrior.load("no/such/folder")
        Traceback (most recent call last):
        ...
        ValueError: no/such/folder/layout_prior.safetensors: no such file; expected one written by save()
        """
        from safetensors import SafetensorError, safe_open

        path = Path(folder) / _FILE_NAME
        if not path.is_file():
            raise ValueError(f"{path}: no such file; expected one written by save()")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("layout_prior") != "empirical":
                    raise ValueError(f"{path}: not an empirical layout prior; its metadata is {metadata}")
                return cls.fit(file.get_tensor("masks"), int(metadata["n_classes"]))
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def class_fractions(layouts: UInt8[Tensor, "n h w"], n_classes: int) -> Float[Tensor, "n classes"]:
    """The share of each layout's pixels that each class covers; a row sums to 1.

    >>> class_fractions(torch.tensor([[[0, 1, 1, 1]]], dtype=torch.uint8), n_classes=3)
    tensor([[0.2500, 0.7500, 0.0000]])
    """
    return torch.stack([(layouts == k).float().mean((1, 2)) for k in range(n_classes)], dim=1)
