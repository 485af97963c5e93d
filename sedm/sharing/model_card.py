"""The card of a shipped generator: data, licence, training run, intended use, limits, fidelity.

Its text is ``model_card.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from sedm.config.study import Study

TEMPLATE = Path(__file__).with_suffix(".md")
TAGS = ["style-extracting-diffusion-model", "segmentation", "synthetic-data"]
SETTINGS = ("seed", "training.n_steps", "training.batch_size", "model.channels", "model.style_dim", "model.objective")


def model_card(
    study: Study, training: Mapping, fidelity: Mapping | None, layouts: str, n_styles: tuple[int, int]
) -> ModelCard:
    """Fill in the card of a model, with the head that a hub reads.

    Args:
        study: that it was trained for.
        training: what ``Results.save_values`` wrote of the training run.
        fidelity: the same of the fidelity table; None where it was not measured.
        layouts: the kind of the layout prior.
        n_styles: images and groups in the style bank.

    >>> from sedm.config import find_study
    >>> run = {"config": {"preset": "quick", "data.image_size": 64}, "commit": "abc"}
    >>> training = {"values": {"n_images": 9, "n_steps": 3}, "run": run}
    >>> card = model_card(find_study("tissue"), training, None, "empirical", (480, 30))
    >>> card.data.license, "Not measured yet" in card.text
    ('apache-2.0', True)
    """
    config = training["run"]["config"]
    is_cc_by = study.licence == "CC BY 4.0"
    licence = "apache-2.0" if study.embedded else "cc-by-4.0" if is_cc_by else "other"
    n_style_images, n_style_groups = n_styles
    return ModelCard.from_template(
        ModelCardData(license=licence, library_name="diffusers", tags=TAGS),
        template_path=str(TEMPLATE),
        study=study,
        is_cc_by=is_cc_by,
        config=config,
        setting_names=SETTINGS,
        image_size=config["data.image_size"],
        training=training["values"],
        commit=training["run"]["commit"],
        layouts=layouts,
        n_style_images=n_style_images,
        n_style_groups=n_style_groups,
        fidelity=fidelity,
        arms=("generated", "real", "chance"),
        describe=_describe,
    )


def _describe(estimate: Mapping | None) -> str:
    """Write an estimate with its 95 % interval, where there is one."""
    if estimate is None or estimate["value"] is None:
        return ""
    interval = "" if estimate.get("low") is None else f" ({estimate['low']:.3g} to {estimate['high']:.3g})"
    return f"{estimate['value']:.3g}{interval}"
