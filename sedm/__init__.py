"""Style-Extracting Diffusion Models: images with a given layout, in the style of other images."""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # diffusers alone takes seconds to import
