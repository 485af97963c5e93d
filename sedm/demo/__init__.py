"""Style mixing to play with: one pure function, and a page of sliders over it.

* ``render``    the pure function, and places of styles on a map,
* ``mix``       all that decides one picture: rendered, saved as a pair, written as code, walked along,
* ``uploads``   a user's own pictures and masks, checked,
* ``worker``    a thread that draws the newest wish and drops older ones,
* ``controls``  a layout to paint on and a map of styles to pick from,
* ``page``      the widgets; ``sedm demo`` serves them with Voilà.
"""

from sedm.demo.mix import Mix, unpack_layout
from sedm.demo.render import project_styles, render_mix
from sedm.demo.uploads import read_layout, read_style_image, style_of_files
from sedm.runtime.extras import extra

__all__ = [
    "Mix",
    "project_styles",
    "read_layout",
    "read_style_image",
    "render_mix",
    "style_mixing",
    "style_of_files",
    "unpack_layout",
]


def style_mixing(*arguments, **options):
    """The page as a widget; see ``sedm.demo.page.StyleMixing``, which it makes."""
    with extra("demo"):  # widgets are needed for the page alone
        from sedm.demo.page import StyleMixing

    return StyleMixing(*arguments, **options)
