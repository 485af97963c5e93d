"""``sedm generate``: a table of synthetic images, from stored parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from sedm.commands.words import STUDY, Parser, new_folder
from sedm.config import PAIRINGS, PRESETS, STYLE_SOURCES, SamplingConfig, build_config

SETTINGS = {  # in place of those of the preset; what an image is filtered by comes later
    "n_steps": "network evaluations an image (twice that with guidance)",
    "guidance_scale": "1 = no guidance",
    "n_style_images": "images that make up one style",
    "pairing": f"how layouts find their styles: {', '.join(PAIRINGS)}",
    "style_sources": f"groups whose styles are borrowed: {', '.join(STYLE_SOURCES)}",
    "n_mixed_groups": "groups whose styles are mixed into that of one image",
    "extrapolation": "how far beyond them a style may lie, away from one more group, in units of their distance",
    "micro_batch": "images sampled together; part of what fixes an image's bytes",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a table of synthetic images; under a launcher, on several processes. Goes on where it was stopped."""
    run = "data/runs/tissue/quick"
    example = f"--model {run}/model --layouts {run} --styles {run}/style_bank.safetensors "
    parser = Parser("generate", main, f"{example} --n-images 100 --seed 0 --out synthetic")
    parser.add_argument("--model", type=Path, required=True, help="folder that SEDMPipeline.save_pretrained wrote")
    parser.add_argument(
        "--layouts", type=Path, required=True, help="folder of a fitted prior, a patch table, or a study"
    )
    parser.add_argument(
        "--styles", type=Path, required=True, help="a style bank (.safetensors), a patch table, or a study"
    )
    # torchrun takes "--n" for one of its own options
    parser.add_argument(
        "--n-images", "--n", type=int, required=True, help="in the table; write it in full for torchrun"
    )
    parser.add_seed("of layouts, pairs and noise", required=True)
    parser.add_argument("--out", type=new_folder, required=True, help="folder for the table; all processes must see it")
    parser.add_argument("--study", default="", help=f"for the attribution, and its settings: {STUDY}")
    parser.add_preset("whose settings hold")
    parser.add_argument("--split", help="of patch tables that have several")
    parser.add_argument("--push-to", metavar="REPO", help="afterwards, to this private data set of the Hub")
    types = {field.name: type(field.default) for field in fields(SamplingConfig)}
    for name, help in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=types[name], help=f"{help}; as the preset says")
    options = parser.parse_args(arguments)
    preset = options.preset
    settings = build_config(options.study, preset).sampling if options.study else PRESETS[preset]["sampling"]
    changes = {name: getattr(options, name) for name in ("n_images", *SETTINGS)}
    config = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    for what in ("layouts", "styles"):
        if not getattr(options, what).exists():
            raise ValueError(f"--{what} {getattr(options, what)}: no such file or folder")
    from accelerate import PartialState

    from sedm.generation.dataset_card import push_to_hub
    from sedm.generation.stored_parts import generate_from_parts

    table = generate_from_parts(
        options.model,
        options.layouts,
        options.styles,
        config,
        options.seed,
        options.out,
        study=options.study,
        split=options.split,
    )
    print(f"{options.out}: {len(table)} images")
    if options.push_to and PartialState().is_main_process:
        print(push_to_hub(options.out, options.push_to))
