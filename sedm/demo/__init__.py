"""Style mixing to play with: one pure function, and a page of sliders over it.

* ``mix``       the pure function, and all that decides one picture: rendered, saved as a pair, written as code,
* ``uploads``   a user's own pictures and masks, checked,
* ``worker``    a thread that draws the newest wish and drops older ones,
* ``controls``  a layout to paint on and a map of styles to pick from,
* ``page``      the widgets, with a ``layout_panel`` and a ``style_panel``; ``server`` serves them with Voilà.
"""

from pathlib import Path

from sedm.demo.mix import SAVED, Mix, project_styles, render_mix, unpack_layout
from sedm.demo.uploads import read_layout, read_style_images, style_of_files
from sedm.runtime.extras import extra
from sedm.sharing.pretrained import Pretrained

__all__ = [
    "Mix",
    "project_styles",
    "read_layout",
    "read_style_images",
    "render_mix",
    "style_mixing",
    "style_of_files",
    "unpack_layout",
]


def style_mixing(pretrained: Pretrained, steps: int = 8, folder: str | Path = SAVED):
    """Make the page as a widget.

    Args:
        pretrained: the generator to begin with, as ``load_pretrained`` returns it; several pages may share one.
        steps: solver steps of a final picture, to begin with.
        folder: where pairs are saved.

    Raises:
        MissingExtraError: ipywidgets or anywidget is not installed.
    """
    with extra("demo"):  # widgets are needed for the page alone
        from sedm.demo.page import StyleMixing

    return StyleMixing(pretrained, steps, folder)
