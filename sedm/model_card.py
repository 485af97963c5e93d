"""The card of a shipped generator: data, licence, training run, intended use, limits, fidelity."""

from __future__ import annotations

from collections.abc import Mapping

from sedm.studies import STUDIES

INTENDED_USE = (
    "Research and teaching: trying style mixing, drawing training images for segmentation networks, and comparing "
    "generators. Not for diagnosis, and not as evidence of what any patient's tissue looks like."
)
LIMITS = (
    "Trained at {image_size} px on few kinds of look. Textures finer than a few pixels are missing; images of one "
    "style vary less than real ones do; a style far from those trained on is answered with the nearest one known. "
    "Whether images copy training images was measured where the table says so."
)
CC_BY = "https://creativecommons.org/licenses/by/4.0/"
SETTINGS = ("seed", "training.n_steps", "training.batch_size", "model.channels", "model.style_dim", "model.objective")


def model_card(study: str, training: Mapping, fidelity: Mapping | None, layouts: str, n_styles: tuple[int, int]) -> str:
    """The card as Markdown with the head that a hub reads.

    Args:
        study: a name in ``STUDIES``.
        training: what ``Results.save_values`` wrote of the training run.
        fidelity: the same of the fidelity table; None where it was not measured.
        layouts: the kind of the layout prior.
        n_styles: images and groups in the style bank.

    >>> run = {"config": {"preset": "quick", "data.image_size": 64}, "commit": "abc"}
    >>> card = model_card("tissue", {"values": {"n_images": 9, "n_steps": 3}, "run": run}, None, "empirical", (480, 30))
    >>> card.splitlines()[:2], "Not measured yet" in card
    (['---', 'license: apache-2.0'], True)
    """
    facts, run, values = STUDIES[study], training["run"], training["values"]
    config, preset = run["config"], run["config"]["preset"]
    size = config["data.image_size"]
    head = [
        "---",
        f"license: {'apache-2.0' if facts.embedded else _licence(facts.attribution)}",
        "library_name: diffusers",
        "tags: [style-extracting-diffusion-model, segmentation, synthetic-data]",
        "---",
        f"# SEDM, study {study}, preset {preset}",
        "",
        f"Draws {size}×{size} px images for a layout of the classes {', '.join(facts.classes)}, in the style of one or "
        "several images. Method: Öttl et al., ECCV 2024, arXiv 2403.14429.",
    ]
    data = (
        "Images drawn by sedm itself; no photograph, no person's data."
        if facts.embedded
        else f"{facts.attribution}. None of its images or masks is in this folder."
    )
    bank = f"{n_styles[0]} style embeddings of {n_styles[1]} {facts.group}s, without images"
    settings = [f"- `{name}`: {config[name]}" for name in SETTINGS if name in config]
    return "\n".join(
        [
            *head,
            *_section("Data", data, f"Layouts: a prior of the kind `{layouts}`. Styles: {bank}."),
            *_section("Licence", _terms(facts)),
            *_section(
                "Training run",
                f"{values['n_steps']:,} steps over {values['n_images']:,} images, commit {run['commit'][:12]}.",
                "\n".join(settings),
            ),
            *_section("Intended use", INTENDED_USE),
            *_section("Limits", LIMITS.format(image_size=size)),
            *_section("Fidelity", *(_fidelity(fidelity) if fidelity else ["Not measured yet."])),
            *_section("Load it", f'```python\nimport sedm\n\npretrained = sedm.load_pretrained("{study}")\n```'),
            "",
        ]
    )


def _section(title: str, *paragraphs: str) -> list[str]:
    return ["", f"## {title}", "", "\n\n".join(paragraph for paragraph in paragraphs if paragraph)]


def _licence(attribution: str) -> str:
    return "cc-by-4.0" if "CC BY 4.0" in attribution else "other"


def _terms(facts) -> str:
    if facts.embedded:
        return "Apache 2.0, as the code."
    link = f", {CC_BY}" if "CC BY 4.0" in facts.attribution else ""
    return f"The weights were trained on data whose source and terms go with them: {facts.attribution}{link}."


def _fidelity(fidelity: Mapping) -> list[str]:
    """A sentence, and a table of every measure with its 95 % interval."""
    arms = ("generated", "real", "chance")
    rows = [f"| measure | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
    for measure, found in fidelity["values"]["table"].items():
        cells = [_estimate(found[arm]) if arm in found else "" for arm in arms]
        rows.append(f"| {measure.replace('_', ' ')} | {' | '.join(cells)} |")
    run = fidelity["run"]
    measured = f"Measured by notebook 04 (`{run['config']['preset']}`, seed {run['config']['seed']}), 95 % intervals."
    return [measured, "\n".join(rows)]


def _estimate(found: Mapping) -> str:
    if found["value"] is None:
        return ""
    interval = "" if found.get("low") is None else f" ({found['low']:.3g} to {found['high']:.3g})"
    return f"{found['value']:.3g}{interval}"
