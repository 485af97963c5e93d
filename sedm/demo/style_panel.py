"""The right column: two to four styles of the bank, or of a user's own pictures, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor

from sedm.data.reduce import FITS
from sedm.demo.controls import StyleMap, fit_choice
from sedm.demo.render import project_styles
from sedm.demo.uploads import read_style_images, style_of_images
from sedm.sharing.pretrained import Pretrained

LETTERS = "ABCD"
NOBODY = "—"  # of the third and fourth style, which are not needed
GREY = (185, 180, 196)  # of styles while no colour is known yet


class StylePanel:
    """Which styles are mixed, and how much of each: ``names``, ``styles``, ``codes`` and ``weights``.

    Each style is made once, when it is first asked for; moving a weight encodes nothing.

    Args:
        changed: called after every change of styles or weights.
        guarded: wraps what answers a control, so that its errors reach the user.
    """

    def __init__(self, pretrained: Pretrained, changed: Callable[[], None], guarded: Callable):
        self.pretrained, self._changed = pretrained, changed
        self._own: dict[str, tuple[Tensor, str]] = {}  # of uploaded pictures: style, code
        self._places = project_styles(pretrained, pretrained.group_styles)
        self._colours: dict[str, tuple[int, int, int]] = {}
        self._make_controls()
        self._show_map()
        for control in (*self.choices, *self.amounts):
            control.observe(guarded(self._tell), names="value")
        self.map.observe(guarded(self._take_pick), names="picked")
        self.upload.observe(guarded(self._take_upload), names="value")
        self._show_mixture()

    def _make_controls(self) -> None:
        names, along = self.pretrained.styles.names, self._places[:, 0]
        first = [names[int(along.argmin())], names[int(along.argmax())], NOBODY, NOBODY]
        self.choices, self.amounts, self.shares, rows = [], [], [], []
        for letter, name in zip(LETTERS, first, strict=True):
            options = names if letter in "AB" else [NOBODY, *names]
            choice = widgets.Dropdown(options=options, value=name if name in options else options[0])
            amount = widgets.FloatSlider(float(letter == "A"), min=0, max=1, step=0.01, readout=False)
            choice.layout.width, amount.layout.width, amount.layout.flex = "176px", "auto", "1 1 auto"
            share = widgets.HTML(layout={"width": "44px"})
            badge = widgets.HTML(f"<span class='sedm-letter'>{letter}</span>", layout={"width": "22px"})
            rows.append(widgets.HBox([badge, choice, amount, share]).add_class("sedm-row"))
            self.choices.append(choice)
            self.amounts.append(amount)
            self.shares.append(share)
        self.target = widgets.ToggleButtons(options=list(LETTERS), value="B", style={"button_width": "34px"})
        self.upload = widgets.FileUpload(
            multiple=True, description="Own pictures", tooltip="Own pictures", layout={"width": "130px"}
        )
        self.fit = fit_choice(FITS)
        self.map = StyleMap()
        label = widgets.HTML("Pick for", layout={"width": "52px"})
        pick = widgets.HBox([label, self.target]).add_class("sedm-row")
        self.box = widgets.VBox(
            [
                widgets.HTML("<h2>Styles and their weights</h2>"),
                *rows,
                widgets.HBox([pick, self.fit, self.upload]).add_class("sedm-row").add_class("sedm-between"),
                self.map,
            ]
        ).add_class("sedm-card")

    @property
    def _used(self) -> list[int]:
        return [slot for slot, choice in enumerate(self.choices) if choice.value != NOBODY]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the styles in use."""
        return tuple(self.choices[slot].value for slot in self._used)

    @property
    def weights(self) -> tuple[float, ...]:
        """One a style in use."""
        return tuple(self.amounts[slot].value for slot in self._used)

    @property
    def styles(self) -> Float[Tensor, "n n_tokens dim"]:
        """One row a style in use."""
        return torch.cat([self._style(name) for name in self.names])

    @property
    def codes(self) -> tuple[str, ...]:
        """Python expressions that give the styles in use."""
        return tuple(
            self._own[name][1] if name in self._own else f"pretrained.style_of({name!r})" for name in self.names
        )

    def set_colours(self, colours: Mapping[str, tuple[int, int, int]]) -> None:
        """Paints points of the map: name → RGB, 0…255; others take the colour of the one most like them."""
        self._colours.update(colours)
        self._show_map()

    def colourless(self, n: int) -> list[str]:
        """Up to ``n`` styles of the bank whose colour is not known yet, from all over it."""
        names = [name for name in self.pretrained.styles.names if name not in self._colours]
        return names[:: max(len(names) // n, 1)][:n]

    def _style(self, name: str) -> Float[Tensor, "1 n_tokens dim"]:
        return self._own[name][0] if name in self._own else self.pretrained.style_of(name)

    def _tell(self, _change=None) -> None:
        self._show_mixture()
        self._changed()

    def _take_pick(self, change) -> None:
        self._put(change["new"][0])

    def _put(self, name: str) -> None:
        slot = LETTERS.index(self.target.value)
        if self.amounts[slot].value == 0:  # or picking would change nothing
            self.amounts[slot].value = 0.5
        self.choices[slot].value = name

    def _take_upload(self, change) -> None:
        if not change["new"]:
            return
        files = list(change["new"])
        self.upload.value = ()
        size = self.pretrained.image_size
        fit = self.fit.value
        images = torch.cat([read_style_images(bytes(file.content), file.name, size, fit) for file in files])
        names = [file.name for file in files]
        name = names[0] + (f" + {len(names) - 1}" if len(names) > 1 else "")
        code = f"style_of_files(pretrained, {names}, fit={fit!r})"
        self._own[name] = (style_of_images(self.pretrained, images), code)
        self._colours[name] = tuple(images.float().mean((0, 2, 3)).int().tolist())
        for choice in self.choices:
            if name not in choice.options:
                choice.options = (*choice.options, name)
        self._show_map()
        self._put(name)
        self._tell()  # also where the name was in use already

    def _show_map(self) -> None:
        places = self._places
        if self._own:
            own = torch.cat([style for style, _ in self._own.values()])
            places = torch.cat([places, project_styles(self.pretrained, own)])
        names = [*self.pretrained.styles.names, *self._own]
        self.map.points = [
            {"name": name, "x": x, "y": y, "colour": f"rgb{colour}"}
            for name, (x, y), colour in zip(names, _fitted(places).tolist(), self._all_colours(names), strict=True)
        ]

    def _all_colours(self, names: Sequence[str]) -> list[tuple[int, int, int]]:
        known = [name for name in self.pretrained.styles.names if name in self._colours]
        if not known:
            return [self._colours.get(name, GREY) for name in names]
        every, of_known = (torch.cat([self._style(name) for name in some]).flatten(1) for some in (names, known))
        nearest = torch.cdist(every, of_known).argmin(1).tolist()
        return [self._colours.get(name, self._colours[known[k]]) for name, k in zip(names, nearest, strict=True)]

    def _show_mixture(self) -> None:
        total = sum(self.weights)
        for choice, amount, share in zip(self.choices, self.amounts, self.shares, strict=True):
            amount.disabled = choice.value == NOBODY
            part = amount.value / total if total and not amount.disabled else 0
            share.value = f"<div class='sedm-share'>{'' if amount.disabled else f'{part:.0%}'}</div>"
        self.map.marks = {self.choices[slot].value: LETTERS[slot] for slot in reversed(self._used)}
        if total:
            mixture = self.pretrained.pipeline.mix_styles(self.styles, self.weights)
            self.map.mixture = _fitted(project_styles(self.pretrained, mixture))[0].tolist()


def _fitted(places: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """Places in −1…1 as shares 0…1 of the map, with a margin; what lies farther out is put on its edge."""
    return (0.5 + 0.47 * places).clamp(0, 1)
