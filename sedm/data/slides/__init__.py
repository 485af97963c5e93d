"""Whole slides, what people drew on them, and patches cut from them."""

import lazy_loader

# on first use: slides need an extra
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "annotations": ["read_polygons"],
        "cutting": ["sample_patches", "sample_positions"],
        "polygons": ["Polygon", "rasterise"],
        "sections": ["Tissue", "find_tissue"],
        "slide": ["Slide"],
        "slide_files": ["find_slides"],
    },
)
