"""The one style of all figures."""

from __future__ import annotations

import matplotlib.pyplot as plt


def set_plot_style() -> None:
    """Set the one style of all figures."""
    import seaborn

    seaborn.set_theme(context="paper", style="ticks", palette="deep", font_scale=1.0)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "image.interpolation": "nearest",
        }
    )
