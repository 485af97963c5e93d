"""How patches are cut from slides; without any reader of slides, so that a command line can show the defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SlideSettings:
    """Which patches are cut from each slide.

    Raises:
        ValueError: a setting that is out of its range.

    >>> SlideSettings(patch_size=0)
    Traceback (most recent call last):
    ...
    ValueError: patch_size=0; it must be greater than 0
    """

    n_patches_per_slide: int = 32
    patch_size: int = 512  # px a side
    microns_per_pixel: float = 2.0  # of the patches
    unannotated_is_background: bool = True  # else tissue that nobody outlined becomes UNKNOWN, and glass class 0
    seed: int = 0
    min_density: float = 0.04  # of tissue, as the next four: see sections.find_tissue
    min_colour: float = 0.012
    min_area_mm2: float = 0.02
    leave_out_pen: bool = True
    glass: tuple[float, float, float] | None = None  # its colour, where slides do not show it clearly

    def __post_init__(self):
        for name in ("n_patches_per_slide", "patch_size", "microns_per_pixel"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}; it must be greater than 0")
        for name in ("min_density", "min_colour", "min_area_mm2"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}; it must be 0 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}; it must be 0 or more")

    @property
    def tissue_settings(self) -> dict[str, object]:
        """Collect the arguments of :func:`sedm.data.slides.sections.find_tissue`."""
        names = ("min_density", "min_colour", "min_area_mm2", "leave_out_pen", "glass")
        return {name: getattr(self, name) for name in names}
