"""The right column: two to four styles of the bank, or of a user's own pictures, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor

from sedm.data.reduce import FITS
from sedm.demo.controls import StyleMap, card, fit_choice, html, row
from sedm.demo.mix import project_styles
from sedm.demo.uploads import read_style_images, style_of_images
from sedm.sharing.pretrained import Pretrained

LETTERS = "ABCD"
NOBODY = "—"  # the third and fourth style, which are not needed
GREY = (185, 180, 196)  # of styles while no colour is known yet


class StylePanel:
    """The controls of the styles that are mixed: ``names``, ``styles``, ``codes`` and ``weights``, of those in use.

    Each style is made once, when it is first needed; moving a weight encodes nothing.

    Args:
        pretrained: whose bank lends the styles.
        changed: called after every change of styles or weights.
        connect: calls an answer whenever a control changes, and shows its errors to the user.
    """

    def __init__(self, pretrained: Pretrained, changed: Callable[[], None], connect: Callable):
        self.pretrained = pretrained
        self._changed = changed
        self._own: dict[str, tuple[Tensor, str]] = {}  # of uploaded pictures: style, code
        self._colours: dict[str, tuple[int, int, int]] = {}
        self.box = self._make_controls()
        self._show_map()
        self._show_mixture()
        for control in (*self.choices, *self.amounts):
            connect(control, self._take_change)
        connect(self.map, self._take_pick, trait="picked")
        connect(self.upload, self._take_upload)

    def _make_controls(self) -> widgets.Widget:
        names = self.pretrained.styles.names
        along = project_styles(self.pretrained, self.pretrained.group_styles)[:, 0]
        first = [names[int(along.argmin())], names[int(along.argmax())], NOBODY, NOBODY]
        self.choices, self.amounts, self.shares, rows = [], [], [], []
        wide = {"width": "auto", "flex": "1 1 auto"}
        for letter, name in zip(LETTERS, first, strict=True):
            options = names if letter in "AB" else [NOBODY, *names]
            choice = widgets.Dropdown(options=options, value=name, layout={"width": "176px"})
            amount = widgets.FloatSlider(float(letter == "A"), min=0, max=1, step=0.01, readout=False, layout=wide)
            widgets.dlink((choice, "value"), (amount, "disabled"), lambda name: name == NOBODY)
            self.choices.append(choice)
            self.amounts.append(amount)
            self.shares.append(html("", width="44px"))
            badge = html(f"<span class='sedm-letter'>{letter}</span>", width="22px")
            rows.append(row(badge, choice, amount, self.shares[-1]))
        self.target = widgets.ToggleButtons(options=list(LETTERS), value="B", style={"button_width": "34px"})
        words = "Own pictures"
        self.upload = widgets.FileUpload(multiple=True, description=words, tooltip=words, layout={"width": "130px"})
        self.fit = fit_choice(FITS)
        self.map = StyleMap()
        pick = row(html("Pick for", width="52px"), self.target)
        return card(html("<h2>Styles and their weights</h2>"), *rows, row(pick, self.fit, self.upload), self.map)

    @property
    def _used(self) -> list[int]:
        return [slot for slot, choice in enumerate(self.choices) if choice.value != NOBODY]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.choices[slot].value for slot in self._used)

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(self.amounts[slot].value for slot in self._used)

    @property
    def styles(self) -> Float[Tensor, "n n_tokens dim"]:
        return self._styles_of(self.names)

    @property
    def codes(self) -> tuple[str, ...]:
        """Python expressions that give the styles."""
        return tuple(
            self._own[name][1] if name in self._own else f"pretrained.style_of({name!r})" for name in self.names
        )

    def set_colours(self, colours: Mapping[str, tuple[int, int, int]]) -> None:
        """Paint points of the map: name → RGB, 0…255; others take the colour of the one most like them."""
        self._colours.update(colours)
        self._show_map()

    def colourless(self, n: int) -> list[str]:
        """List up to ``n`` styles of the bank whose colour is not known yet, from all over it."""
        names = [name for name in self.pretrained.styles.names if name not in self._colours]
        return names[:: max(len(names) // n, 1)][:n]

    def _styles_of(self, names: Sequence[str]) -> Float[Tensor, "n n_tokens dim"]:
        style_of = self.pretrained.style_of
        return torch.cat([self._own[name][0] if name in self._own else style_of(name) for name in names])

    def _take_change(self) -> None:
        self._show_mixture()
        self._changed()

    def _take_pick(self) -> None:
        self._put(self.map.picked[0])

    def _put(self, name: str) -> None:
        slot = LETTERS.index(self.target.value)
        if self.amounts[slot].value == 0:  # or picking would change nothing
            self.amounts[slot].value = 0.5
        self.choices[slot].value = name

    def _take_upload(self) -> None:
        files = self.upload.value
        if not files:
            return
        self.upload.value = ()  # so that the same files can be given again
        size, fit = self.pretrained.image_size, self.fit.value
        images = torch.cat([read_style_images(bytes(file.content), file.name, size, fit) for file in files])
        names = [file.name for file in files]
        name = names[0] + (f" + {len(names) - 1}" if len(names) > 1 else "")
        code = f"style_of_files(pretrained, {names}, fit={fit!r})"
        self._own[name] = (style_of_images(self.pretrained, images), code)
        self._colours[name] = tuple(images.float().mean((0, 2, 3)).int().tolist())
        for choice in self.choices:
            if name not in choice.options:
                chosen = choice.value
                choice.options = (*choice.options, name)  # that chooses the first of them
                choice.value = chosen
        self._show_map()
        self._put(name)
        self._take_change()  # also where the name was in use already

    def _show_map(self) -> None:
        names = [*self.pretrained.styles.names, *self._own]
        styles = self._styles_of(names)
        coloured = [row for row, name in enumerate(names) if name in self._colours and name not in self._own]
        colours = [self._colours.get(name, GREY) for name in names]
        if coloured:
            nearest = torch.cdist(styles.flatten(1), styles[coloured].flatten(1)).argmin(1).tolist()
            colours = [self._colours.get(name, colours[coloured[k]]) for name, k in zip(names, nearest, strict=True)]
        places = _on_map(project_styles(self.pretrained, styles)).tolist()
        self.map.points = [
            {"name": name, "x": x, "y": y, "colour": f"rgb{colour}"}
            for name, (x, y), colour in zip(names, places, colours, strict=True)
        ]

    def _show_mixture(self) -> None:
        total = sum(self.weights)
        for slot, share in enumerate(self.shares):
            part = f"{self.amounts[slot].value / (total or 1):.0%}" if slot in self._used else ""
            share.value = f"<div class='sedm-share'>{part}</div>"
        self.map.marks = {self.choices[slot].value: LETTERS[slot] for slot in reversed(self._used)}
        if total:
            mixture = self.pretrained.pipeline.mix_styles(self.styles, self.weights)
            self.map.mixture = _on_map(project_styles(self.pretrained, mixture))[0].tolist()


def _on_map(places: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """Turn places in −1…1 into shares 0…1 of the map, with a margin; what lies farther out is put on its edge."""
    return (0.5 + 0.47 * places).clamp(0, 1)
