"""The protocol of layout priors: fitted to masks, sampled by (seed, index) in a composition, saved and loaded."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.runtime.files import replacing
from sedm.runtime.seeds import seeded_generator

_FILE_NAME = "layout_prior.safetensors"


class LayoutPrior(ABC):
    """A distribution of label maps; its kinds differ in how they draw one.

    Args:
        classes: names of the values 0…K−1.
        fractions: the share of each class in every mask, (n, K); only classes that some mask holds can be asked for.
    """

    kind: ClassVar[str]

    def __init__(self, classes: Sequence[str], fractions: Float[Tensor, "n classes"]):
        self.classes = tuple(classes)
        self.fractions = fractions

    @classmethod
    def fit(cls, patches: Patches, **options) -> LayoutPrior:
        """Fit the prior to what people annotated among ``patches``; predicted and generated masks are left out.

        Args:
            options: of `fit_masks`.

        Raises:
            ValueError: nothing is annotated; see `fit_masks`.

        >>> from sedm.layouts import EmpiricalPrior
        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> sources = ["annotated", "predicted"]
        >>> patches = Patches(pixels, pixels[:, 0], ["a", "b"], classes=("stroma",), mask_source=sources)
        >>> len(EmpiricalPrior.fit(patches).masks)
        1
        """
        annotated = patches.annotated()
        if len(annotated) == 0:
            raise ValueError(f"none of the {len(patches)} patches is annotated; a layout prior needs at least one")
        return cls.fit_masks(annotated.masks, annotated.classes, **options)

    @classmethod
    @abstractmethod
    def fit_masks(cls, masks: UInt8[Tensor, "n h w"], classes: Sequence[str]) -> LayoutPrior:
        """Fit the prior to those of these masks that are fully annotated: (n, h, w), uint8, class indices 0…K−1."""

    @abstractmethod
    def _draw(self, generator: torch.Generator, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "h w"]:
        """Draw one layout; ``wish`` holds fractions to be met, NaN where the prior may choose."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Tensor], dict]:
        """Return what ``_restore`` needs: tensors, and settings that JSON can hold."""

    @classmethod
    @abstractmethod
    def _restore(cls, classes: Sequence[str], tensors: dict[str, Tensor], settings: dict) -> LayoutPrior:
        """Make the prior with this state."""

    def sample(
        self, n: int, composition: Mapping[str, float] | None = None, *, seed: int, first: int = 0
    ) -> UInt8[Tensor, "n h w"]:
        """Sample the layouts ``first``…``first + n − 1`` of this seed.

        Each is a function of (seed, its index) alone, whatever ``n`` is asked at once.

        Args:
            composition: fractions by class name, such as ``{"stroma": 0.6}``, met to within one pixel. Classes that
                it does not name share the rest as they do in the masks. Without it every layout draws its composition
                from the fitted distribution.

        Returns:
            (n, h, w), uint8, class indices 0…K−1.

        Raises:
            ValueError: a negative n, seed or first; an impossible composition.

        >>> from sedm.layouts import EmpiricalPrior
        >>> masks = torch.zeros(2, 20, 20, dtype=torch.uint8)
        >>> masks[:, 4:12, 4:12] = 1
        >>> prior = EmpiricalPrior.fit_masks(masks, ("stroma", "tumour"))
        >>> layouts = prior.sample(5, {"tumour": 0.3}, seed=0)
        >>> layouts.shape, (layouts == 1).float().mean((1, 2))
        (torch.Size([5, 20, 20]), tensor([0.3000, 0.3000, 0.3000, 0.3000, 0.3000]))
        >>> layouts[3].equal(prior.sample(1, {"tumour": 0.3}, seed=0, first=3)[0])
        True
        """
        if min(n, seed, first) < 0:
            raise ValueError(f"n={n}, seed={seed}, first={first}; all three must be 0 or more")
        wish = None if composition is None else self._check_wish(composition)
        return self._sample(range(first, first + n), seed, wish)

    def _sample(self, indices: range, seed: int, wish: Float[Tensor, " classes"] | None) -> UInt8[Tensor, "n h w"]:
        # one at a time: in a batch, rounding may depend on the batch's size and move a border by a pixel.
        layouts = [self._draw(seeded_generator("layout", seed, index), wish) for index in indices]
        return torch.stack(layouts) if layouts else torch.empty(0, *self.size, dtype=torch.uint8)

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of a layout, px."""

    def _check_wish(self, composition: Mapping[str, float]) -> Float[Tensor, " classes"]:
        seen = self.fractions.amax(0) > 0
        for name, fraction in composition.items():
            if name not in self.classes:
                raise ValueError(f"composition names the class {name!r}; this prior has {', '.join(self.classes)}")
            if not 0 <= fraction <= 1:
                raise ValueError(f"composition: {name}={fraction}; a fraction must lie in [0, 1]")
            if fraction > 0 and not seen[self.classes.index(name)]:
                raise ValueError(f"composition asks for {fraction:.0%} {name!r}, but no fitted mask holds that class")
        total = sum(composition.values())
        free = [name for i, name in enumerate(self.classes) if name not in composition and seen[i]]
        if total > 1 + 1e-6 or (not free and total < 1 - 1e-6):
            takers = f"{', '.join(free)} share the rest" if free else "no other class can take the rest"
            raise ValueError(f"composition: {dict(composition)} sums to {total:.4g}, and {takers}; make it sum to 1")
        return torch.tensor([composition.get(name, float("nan")) for name in self.classes])

    def save(self, folder: str | Path) -> Path:
        """Save this prior in ``folder``, whole or not at all, and return the path of its file.

        >>> import tempfile
        >>> from sedm.layouts import EmpiricalPrior
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     EmpiricalPrior.fit_masks(torch.ones(1, 8, 8, dtype=torch.uint8), ("stroma", "tumour")).save(folder).name
        'layout_prior.safetensors'
        """
        from safetensors.torch import save_file

        path = Path(folder) / _FILE_NAME
        tensors, settings = self._state()
        metadata = {"layout_prior": json.dumps({"kind": self.kind, "classes": self.classes, **settings})}
        with replacing(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        return path


def load_prior(folder: str | Path) -> LayoutPrior:
    """Load the prior, of whatever kind, that ``save`` wrote to ``folder``.

    Raises:
        ValueError: no such file, an unreadable one, or one that holds something else.

    >>> load_prior("no/such/folder")
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    settings = json.loads(metadata.get("layout_prior", "{}"))
    kinds = {kind.kind: kind for kind in LayoutPrior.__subclasses__()}
    if settings.get("kind") not in kinds:
        raise ValueError(f"{path}: no layout prior of a kind known here ({', '.join(kinds)}); its metadata: {metadata}")
    return kinds[settings.pop("kind")]._restore(settings.pop("classes"), tensors, settings)


def complete_masks(masks: UInt8[Tensor, "n h w"], n_classes: int) -> UInt8[Tensor, "m h w"]:
    """Choose the masks without an ``UNKNOWN`` pixel, and warn where some are left out.

    Raises:
        ValueError: no masks, none that is fully annotated, or one with a value outside the classes.

    >>> complete_masks(torch.full((1, 8, 8), 3, dtype=torch.uint8), n_classes=2)
    Traceback (most recent call last):
    ...
    ValueError: mask 0 holds 3, which is outside the classes 0..1
    """
    if masks.ndim != 3 or masks.dtype != torch.uint8 or masks.numel() == 0:
        raise ValueError(
            f"masks of shape {tuple(masks.shape)} and type {masks.dtype}; a layout prior needs at least "
            "one annotated mask as uint8 (n, h, w)"
        )
    is_unknown = masks == UNKNOWN
    highest = masks.where(~is_unknown, 0).flatten(1).amax(1)
    if (highest >= n_classes).any():
        row = int((highest >= n_classes).nonzero()[0])
        raise ValueError(f"mask {row} holds {int(highest[row])}, which is outside the classes 0..{n_classes - 1}")
    is_complete = ~is_unknown.flatten(1).any(1)
    if not is_complete.any():
        raise ValueError(f"mask 0 has unannotated pixels ({UNKNOWN}), as every other; one must be fully annotated")
    if is_complete.all():
        return masks
    n_left_out = int((~is_complete).sum())
    warnings.warn(f"{n_left_out} of {len(masks)} masks have unannotated pixels and are left out", stacklevel=3)
    return masks[is_complete]


def complete(
    wish: Float[Tensor, " classes"], drawn: Float[Tensor, " classes"], usual: Float[Tensor, " classes"]
) -> Float[Tensor, " classes"]:
    """Complete a wish to fractions that sum to 1: where it is NaN, with the drawn ones, scaled to what is left.

    Where the drawn ones have nothing of any free class, the usual ones take their place.

    >>> drawn, usual = torch.tensor([0.2, 0.6, 0.2]), torch.tensor([0.5, 0.5, 0.0])
    >>> complete(torch.tensor([0.6, torch.nan, torch.nan]), drawn, usual)
    tensor([0.6000, 0.3000, 0.1000])
    """
    free = wish.isnan()
    share = torch.where(free, drawn, 0)
    if share.sum() <= 0:
        share = torch.where(free, usual, 0)
    rest = (1 - wish[~free].sum()).clamp(min=0)
    return torch.where(free, share / share.sum().clamp(min=1e-12) * rest, wish)


def pixel_counts(fractions: Float[Tensor, " classes"], n_pixels: int) -> list[int]:
    """Round fractions to whole numbers that sum to ``n_pixels``, each by less than one (largest remainders first).

    >>> pixel_counts(torch.tensor([0.5, 0.25, 0.25]), 10)
    [5, 3, 2]
    """
    exact = fractions.double() / fractions.double().sum() * n_pixels
    counts = exact.floor().long()
    left = n_pixels - int(counts.sum())
    counts[(counts - exact).sort(stable=True).indices[:left]] += 1
    return counts.tolist()
