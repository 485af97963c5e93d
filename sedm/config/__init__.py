"""What is run: studies (a data set with its question), presets (its size), and one flat table of both.

Here stands every number that decides a result and that somebody may want to choose. What is part of a method (the
schedule of noise, the weight that its source gives to a loss, the values that a fit tries) stands beside the method.
"""

from sedm.config.arm_settings import (
    COMPARED,
    CONTROLS,
    ArmConfig,
)
from sedm.config.checks import (
    known_name,
)
from sedm.config.configuration import (
    Config,
    flatten,
)
from sedm.config.presets import PRESETS, build_config
from sedm.config.settings import (
    AGGREGATIONS,
    CONSISTENCIES,
    LAYOUT_INJECTIONS,
    LAYOUT_SOURCES,
    N_COLOURS,
    OBJECTIVES,
    PAIRINGS,
    PRIORS,
    SEGFORMERS,
    STYLE_INJECTIONS,
    STYLE_SAMPLING,
    STYLE_SOURCES,
    SYMMETRIES,
    UNANNOTATED,
    AutoencoderConfig,
    DataConfig,
    LayoutConfig,
    LearnedPriorConfig,
    ModelConfig,
    OptimiserConfig,
    ResumableConfig,
    SamplingConfig,
    SegmentationConfig,
    TrainingConfig,
)
from sedm.config.study import STUDIES, Study, find_study, read_study

__all__ = [
    "AGGREGATIONS",
    "COMPARED",
    "CONSISTENCIES",
    "CONTROLS",
    "LAYOUT_INJECTIONS",
    "LAYOUT_SOURCES",
    "N_COLOURS",
    "OBJECTIVES",
    "PAIRINGS",
    "PRESETS",
    "PRIORS",
    "SEGFORMERS",
    "STUDIES",
    "STYLE_INJECTIONS",
    "STYLE_SAMPLING",
    "STYLE_SOURCES",
    "SYMMETRIES",
    "UNANNOTATED",
    "ArmConfig",
    "AutoencoderConfig",
    "Config",
    "DataConfig",
    "LayoutConfig",
    "LearnedPriorConfig",
    "ModelConfig",
    "OptimiserConfig",
    "ResumableConfig",
    "SamplingConfig",
    "SegmentationConfig",
    "Study",
    "TrainingConfig",
    "build_config",
    "find_study",
    "flatten",
    "known_name",
    "read_study",
]
