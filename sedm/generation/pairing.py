"""Pairing: which layout is drawn in whose style.

A choice is a pure function of (seed, index, layout): image 17 has the same layout and the same lenders in any shard,
on any process, alone or among thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from sedm.config import SamplingConfig
from sedm.data.label_maps import class_fractions
from sedm.data.patches import Patches
from sedm.runtime.seeds import seeded_generator
from sedm.styles.bank import StyleBank, draw_style_rows

Odds = Callable[[UInt8[Tensor, "h w"], str], Float64[Tensor, " groups"]]


class GivenLayouts:
    """Layouts to be used as they are, such as the masks of a patch table; sampled like those of a prior.

    Args:
        masks: class indices, (n, h, w).
        ids: a name for each, stored with the image that is made for it.

    Raises:
        ValueError: no layout, or another number of ids than of layouts.

    >>> masks = torch.arange(3, dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    >>> layouts = GivenLayouts(masks, ["a", "b", "c"])
    >>> layouts.sample(2, seed=0)[:, 0, 0], layouts.sample_ids(2, seed=0)
    (tensor([1, 0], dtype=torch.uint8), ['b', 'a'])
    """

    def __init__(self, masks: UInt8[Tensor, "n h w"], ids: Sequence[str]):
        if len(masks) == 0 or masks.ndim != 3 or masks.dtype != torch.uint8:
            raise ValueError(
                f"layouts of shape {tuple(masks.shape)} and type {masks.dtype}; give uint8 (n, h, w), n ≥ 1"
            )
        if len(ids) != len(masks):
            raise ValueError(f"{len(ids)} ids for {len(masks)} layouts; give one of each")
        self.masks = masks
        self.ids = list(ids)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a layout, px."""
        return tuple(self.masks.shape[1:])

    def draw_rows(self, n: int, *, seed: int, first: int = 0) -> list[int]:
        """Draw the layout of each of the images ``first``…``first + n − 1`` of this seed, all as likely."""
        odds = torch.ones(len(self.masks)).double()
        generators = (seeded_generator("given layout", seed, index) for index in range(first, first + n))
        return [int(torch.multinomial(odds, 1, generator=generator)) for generator in generators]

    def sample(self, n: int, *, seed: int, first: int = 0) -> UInt8[Tensor, "n h w"]:
        """Draw the layouts of the images ``first``…``first + n − 1`` of this seed."""
        return self.masks[self.draw_rows(n, seed=seed, first=first)]

    def sample_ids(self, n: int, *, seed: int, first: int = 0) -> list[str]:
        """Name the layouts that `sample` draws."""
        return [self.ids[row] for row in self.draw_rows(n, seed=seed, first=first)]


class StyleChoice(NamedTuple):
    """Whose style an image gets."""

    rows: list[int]  # of the bank; as many of each group, one group after the other
    weights: list[float]  # one a row, sum 1; alike within a group; negative for one that the style is led away from

    def group_weights(self, bank: StyleBank) -> dict[str, float]:
        """Sum the weights of each group, in the order of the rows.

        >>> bank = StyleBank(torch.eye(3), ["a", "a", "b"], ["0", "1", "2"])
        >>> StyleChoice([2, 2, 0, 1], [0.375, 0.375, 0.125, 0.125]).group_weights(bank)
        {'b': 0.75, 'a': 0.25}
        """
        weights: dict[str, float] = {}
        for row, weight in zip(self.rows, self.weights, strict=True):
            weights[bank.groups[row]] = weights.get(bank.groups[row], 0) + weight
        return weights


class Pairing:
    """Finds the groups that lend their style to a layout.

    ===============  ============================================================================================
    ``random``       every group is as likely as any other
    ``composition``  groups whose tissue is composed like the layout come more often: with probability ∝
                     exp(−½ d²/τ²), d the Euclidean distance between the class shares of the layout and the mean
                     ones of the group, τ the median distance between two groups. A group of unknown shares counts
                     as one at distance τ: neither favoured nor shut out
    ``class``        only groups with images of the layout's own image class, each as likely as any other
    ===============  ============================================================================================

    ``config.n_mixed_groups`` different groups are drawn and their styles mixed with weights from the uniform
    (Dirichlet) distribution; ``config.n_style_images`` images of each lend. With ``config.extrapolation`` e the mixture
    is led away from one more group, by u times its distance from that group's style, u from the uniform distribution on
    [0, e]: a look that no group has. The last group then has the weight −u, and all sum to 1 as ever.

    Args:
        of_layouts: image class by layout id, for ``class``.
        of_groups: of groups in the bank, for ``composition`` the mean share of each class 0…K−1 (see
            ``mean_shares``; a data frame has a row a group), for ``class`` the image class or classes.
        annotated_groups: the groups whose masks were used; needed to take styles of these or of the others alone.

    Raises:
        ValueError: an empty bank, nobody left to lend, fewer groups than are to be mixed, or facts that are missing.

    >>> bank = StyleBank(torch.eye(4), ["a", "a", "b", "b"], list("0123"))
    >>> pairing = Pairing(bank, SamplingConfig(n_style_images=2, pairing="class"), of_layouts={"17": "grade 3"},
    ...     of_groups={"a": "grade 1", "b": "grade 3"})
    >>> choice = pairing.choose(seed=0, index=0, layout=torch.zeros(8, 8, dtype=torch.uint8), layout_id="17")
    >>> sorted(choice.rows), choice.weights
    ([2, 3], [0.5, 0.5])
    """

    def __init__(
        self,
        bank: StyleBank,
        config: SamplingConfig,
        *,
        of_layouts: Mapping[str, str] | None = None,
        of_groups: Mapping[str, Collection] | pd.DataFrame | None = None,
        annotated_groups: Collection[str] | None = None,
    ):
        self.bank, self.config = bank, config
        self.groups = _lenders(bank, config, annotated_groups)
        self._of_layouts = dict(of_layouts or {})
        if isinstance(of_groups, pd.DataFrame):
            of_groups = {name: row.tolist() for name, row in of_groups.iterrows()}
        self._of_groups = {name: _listed(facts) for name, facts in (of_groups or {}).items() if name in self.groups}
        prepare = {"random": self._uniform, "composition": self._by_composition, "class": self._by_class}
        self._odds: Odds = prepare[config.pairing]()

    @property
    def facts(self) -> list:
        """All that decides the choices beside bank, configuration and layouts, in a form that JSON can hold."""
        return [self.groups, self._of_groups, self._of_layouts]

    def check_layouts(self, layout_ids: Sequence[str]) -> None:
        """Refuse layouts for which no style can be found.

        Raises:
            ValueError: one whose image class is not known, for ``class``.
        """
        missing = [name for name in layout_ids if name not in self._of_layouts]
        if self.config.pairing == "class" and missing:
            raise ValueError(f"layout {missing[0]!r} has no image class in of_layouts; pairing='class' needs it")

    def choose(self, seed: int, index: int, layout: UInt8[Tensor, "h w"], layout_id: str = "") -> StyleChoice:
        """Choose whose style image ``index`` of this seed gets, when it shows ``layout``.

        Raises:
            ValueError: a layout whose image class is not known, for ``class``.
        """
        generator, n_images = seeded_generator("style of a synthetic image", seed, index), self.config.n_style_images
        odds = self._odds(layout, layout_id)
        chosen = torch.multinomial(odds, _n_drawn(self.config), generator=generator).tolist()
        parts = torch.empty(self.config.n_mixed_groups, dtype=torch.float64).exponential_(generator=generator)
        shares = parts / parts.sum()
        if self.config.extrapolation:
            beyond = self.config.extrapolation * torch.rand(1, dtype=torch.float64, generator=generator)
            shares = torch.cat([(1 + beyond) * shares, -beyond])
        rows, weights = [], []
        for group, weight in zip(chosen, shares.tolist(), strict=True):
            rows += draw_style_rows(self.bank.rows_of(self.groups[group]), n_images, generator)
            weights += [weight / n_images] * n_images
        return StyleChoice(rows, weights)

    def _uniform(self) -> Odds:
        odds = torch.ones(len(self.groups), dtype=torch.float64)
        return lambda layout, layout_id: odds

    def _by_composition(self) -> Odds:
        if not self._of_groups:
            raise ValueError(
                "pairing='composition' needs of_groups, the class shares of groups that may lend: give their masks, "
                "drawn or predicted"
            )
        lengths = {len(shares) for shares in self._of_groups.values()}
        if len(lengths) > 1:
            raise ValueError(f"of_groups: shares of {sorted(lengths)} classes; give every group one share a class")
        n_classes = lengths.pop()
        unknown = [torch.nan] * n_classes
        shares = torch.tensor([self._of_groups.get(name, unknown) for name in self.groups]).double()
        between = torch.pdist(shares[~shares.isnan().any(1)])
        tau = between.median().item() if len(between) else 0.0

        def odds(layout, layout_id):
            distances = (shares - class_fractions(layout[None], n_classes)[0]).norm(dim=1)
            # groups all alike leave nothing to choose by; multinomial asks for as many odds above 0 as it draws
            closeness = -(distances.nan_to_num(tau) ** 2) / (2 * tau**2) if tau else torch.zeros(len(shares)).double()
            return closeness.softmax(0).clamp(min=1e-12)

        return odds

    def _by_class(self) -> Odds:
        if not self._of_groups or not self._of_layouts:
            raise ValueError(
                "pairing='class' needs of_layouts and of_groups, the image classes of layouts and of groups"
            )
        odds_of = {
            image_class: torch.tensor([image_class in self._of_groups.get(name, ()) for name in self.groups]).double()
            for image_class in set(self._of_layouts.values())
        }
        for image_class, odds in odds_of.items():
            if odds.sum() < _n_drawn(self.config):
                raise ValueError(
                    f"image class {image_class!r} of a layout: {int(odds.sum())} groups have it, "
                    f"{_n_drawn(self.config)} must lend; leave such layouts out or pair at random"
                )

        def odds(layout, layout_id):
            self.check_layouts([layout_id])
            return odds_of[self._of_layouts[layout_id]]

        return odds


def mean_shares(patches: Patches) -> dict[str, list[float]]:
    """Compute the mean share of each class in the masks of each group that has any, also predicted ones.

    >>> masks = torch.tensor([[[0, 1]], [[1, 1]], [[255, 255]]], dtype=torch.uint8)
    >>> images = masks[:, None].expand(3, 3, 1, 2)
    >>> mean_shares(Patches(images, masks, ["a", "a", "b"], classes=("stroma", "tumour")))
    {'a': [0.25, 0.75]}
    """
    labelled = patches.with_masks()
    fractions = pd.DataFrame(class_fractions(labelled.masks, patches.n_classes).double().numpy())
    means = fractions.groupby(labelled.groups, sort=False).mean()
    return dict(zip(means.index, means.to_numpy().tolist(), strict=True))


def _lenders(bank: StyleBank, config: SamplingConfig, annotated_groups: Collection[str] | None) -> list[str]:
    """List the groups that may lend their style."""
    sources = config.style_sources
    if not bank.groups:
        raise ValueError("the style bank is empty; embed the images of at least one group")
    if sources != "all" and annotated_groups is None:
        raise ValueError(f"style_sources={sources!r} must know which groups are annotated; give annotated_groups")
    annotated = set(annotated_groups or ())
    groups = [name for name in bank.names if sources == "all" or (name in annotated) == (sources == "annotated")]
    if not groups:
        raise ValueError(f"style_sources={sources!r} leaves none of the {len(bank.names)} groups in the bank to lend")
    if _n_drawn(config) > len(groups):
        beyond = " and one more to lead away from" if config.extrapolation else ""
        raise ValueError(
            f"n_mixed_groups={config.n_mixed_groups}{beyond}, but only {len(groups)} groups lend their style"
        )
    return groups


def _n_drawn(config: SamplingConfig) -> int:
    """Count the groups that take part in the style of an image."""
    return config.n_mixed_groups + (config.extrapolation > 0)


def _listed(facts: str | Collection) -> list:
    """List shares in their order, or image classes in an order that is the same in every process."""
    return [facts] if isinstance(facts, str) else sorted(facts) if isinstance(facts, Set) else list(facts)
