"""``sedm ablate``: variants of the generator, one choice changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sedm.commands.words import STUDY, Parser, new_folder, whole_number
from sedm.config import build_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure variants of the generator of a study, one file for each variant and seed."""
    parser = Parser("ablate", main, "tissue --preset smoke --variants baseline no_style --seeds 0 --dry-run")
    parser.add_argument("study", help=STUDY)
    parser.add_preset()
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1], help="of training; 0 and 1")
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", help="all, which --dry-run lists, when left out")
    parser.add_argument(
        "--n-steps", type=whole_number(1), help="of training, for every variant; the preset's when left out"
    )
    parser.add_data()
    parser.add_argument(
        "--runs", type=new_folder, default=Path("data/runs/variants"), help="folder for checkpoints and metrics"
    )
    parser.add_argument(
        "--out",
        type=new_folder,
        help="folder for the results; figures/<study>/variants/<preset>_<n>_images when left out",
    )
    parser.add_argument(
        "--split", choices=["validation", "test"], default="validation", help="whose groups lend their styles"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the runs and what they change")
    options = parser.parse_args(arguments)
    baseline = build_config(options.study, options.preset)
    if options.n_steps is not None:
        baseline = replace(baseline, training=replace(baseline.training, n_steps=options.n_steps))
    from sedm.experiments.variant_runs import describe_run, list_variant_runs, train_variants
    from sedm.experiments.variants import QUESTIONS

    n_images = baseline.training.n_steps * baseline.training.batch_size
    out = options.out or Path("figures") / baseline.study.name / "variants" / f"{options.preset}_{n_images}_images"
    runs = list_variant_runs(baseline, options.variants or list(QUESTIONS), options.seeds)
    if options.dry_run:
        print("\n".join(describe_run(run, baseline, out) for run in runs))
        return 0
    folder = options.runs / baseline.study.name
    return 1 if train_variants(runs, options.data, folder, out, options.split) else 0
