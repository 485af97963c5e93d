"""``sedm train``: the generator of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sedm.commands.words import STUDY, Parser, new_folder, refuse_among_images, whole_number
from sedm.config import build_config


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the generator of a study and save its pipeline; under a launcher, on several processes."""
    parser = Parser("train", main, "tissue --preset smoke --out data/runs/tissue/smoke/training")
    parser.add_argument("study", help=STUDY)
    parser.add_preset()
    parser.add_data()
    parser.add_seed("of weights, batches and noise; 0 when left out", default=0)
    parser.add_argument("--out", type=new_folder, required=True, help="folder for checkpoints and the trained pipeline")
    parser.add_argument("--n-steps", type=whole_number(1), help="of training; the preset's when left out")
    parser.add_argument("--initial", type=Path, help="a saved pipeline of the same architecture, to go on from")
    options = parser.parse_args(arguments)
    config = build_config(options.study, options.preset, options.seed)
    if options.n_steps is not None:
        config = replace(config, training=replace(config.training, n_steps=options.n_steps))
    if options.initial is not None and options.out.resolve() in options.initial.resolve().parents:
        raise ValueError(f"--initial {options.initial} lies in --out, which it would change; choose another --out")
    import torch

    from sedm.data.study_data import load_study
    from sedm.generator.pipeline import SEDMPipeline
    from sedm.generator.training import check_initial, train_generator
    from sedm.runtime.loop import make_accelerator

    accelerator = make_accelerator()  # a precision that it does not know is refused before data are drawn
    goes_on = {}
    if options.initial is not None:
        saved = SEDMPipeline.from_pretrained(options.initial, torch.float32)
        goes_on = {"initial": saved.as_model(), "autoencoder": saved.autoencoder}
        check_initial(goes_on["initial"], config, len(config.study.classes))  # before data are drawn
    refuse_among_images(options.out, config.study)
    data = load_study(config, options.data)
    patches = data.label_subset(config.data.n_annotated_groups, config.seed)
    pipeline = train_generator(config, patches, options.out, data.held_out_groups, **goes_on)
    if accelerator.is_main_process:
        pipeline.save_pretrained(options.out / "model")
