"""``sedm compare``: from a study to an answer."""

from __future__ import annotations

from collections.abc import Sequence

from sedm.commands.words import STUDY, Parser, new_folder, refuse_among_images
from sedm.config import build_config
from sedm.config.study import check_segmentation


def main(arguments: Sequence[str] | None = None) -> None:
    """Find out whether synthetic images help: train with and without them, and write a report.

    What is finished is kept, so that the command goes on where it was stopped.
    """
    parser = Parser("compare", main, "my_images --preset quick    (sedm check my_images --write makes a study.toml)")
    parser.add_argument("study", help=STUDY)
    parser.add_preset()
    parser.add_data()
    parser.add_seed("of the first choice of annotated groups and its generator; 0 when left out", default=0)
    parser.add_argument(
        "--out", type=new_folder, help="folder for the report and all that is trained; beside the data when left out"
    )
    options = parser.parse_args(arguments)
    config = build_config(options.study, options.preset, options.seed)
    check_segmentation(config.study)
    from sedm.data.study_data import load_study
    from sedm.experiments.study_comparison import check_comparable, compare_study, results_folder

    refuse_among_images(options.out, config.study)
    data = load_study(config, options.data)
    check_comparable(config, data)
    out = options.out or results_folder(config)
    print(f"{config.study.title or config.study.name}: everything goes to {out}", flush=True)
    print(f"the report: {compare_study(config, data, out)}")
    parts = f"--model {out / 'model'} --layouts {out} --styles {out / 'style_bank.safetensors'}"
    print(f"as many synthetic images as you want: sedm generate {parts} --n-images 1000 --seed 0 --out …")
