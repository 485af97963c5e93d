"""One plot style for picture grids and charts."""

from sedm.figures.charts import (
    ablation_plot,
    agreement_plot,
    scatter_by_group,
    strip_plot,
    sweep_plot,
    table_plot,
)
from sedm.figures.comparisons import arms_strip_plot, curves_plot, forest_plot, predictions_grid, sweeps_plot
from sedm.figures.grids import (
    CLASS_COLOURS,
    UNKNOWN_COLOUR,
    colour_layout,
    crossing_grid,
    image_grid,
    paired_grid,
    pairs_grid,
    sample_history,
    scored_grid,
    style_layout_grid,
)
from sedm.figures.plot_style import set_plot_style

__all__ = [
    "CLASS_COLOURS",
    "UNKNOWN_COLOUR",
    "ablation_plot",
    "agreement_plot",
    "arms_strip_plot",
    "colour_layout",
    "crossing_grid",
    "curves_plot",
    "forest_plot",
    "image_grid",
    "paired_grid",
    "pairs_grid",
    "predictions_grid",
    "sample_history",
    "scatter_by_group",
    "scored_grid",
    "set_plot_style",
    "strip_plot",
    "style_layout_grid",
    "sweep_plot",
    "sweeps_plot",
    "table_plot",
]
