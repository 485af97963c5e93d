"""``sedm segment``: segmentation networks, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sedm.commands.words import STUDY, Parser, new_folder, refuse_among_images, whole_number
from sedm.config import COMPARED, build_config
from sedm.config.study import check_segmentation


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and score segmentation networks of a study, one file for each arm, label subset and seed."""
    parser = Parser("segment", main, "tissue --preset smoke --arms real sedm --draws 0 --seeds 0 --dry-run")
    parser.add_argument("study", help=STUDY)
    parser.add_preset()
    parser.add_argument(
        "--arms",
        nargs="+",
        default=list(COMPARED),
        metavar="ARM",
        help=f"of {', '.join(COMPARED)}; or the setting of a sweep, such as synthetic_fraction; all when left out",
    )
    counts = {"nargs": "+", "metavar": "N"}
    parser.add_argument(
        "--annotated", type=whole_number(0), help="groups that keep their masks, 0 = all; as the preset says", **counts
    )
    parser.add_argument("--draws", type=whole_number(0), help="which choices of annotated groups", **counts)
    parser.add_argument("--seeds", type=whole_number(0), help="of the networks", **counts)
    parser.add_data()
    parser.add_argument(
        "--runs", type=new_folder, help="folder for generators; data/runs/<study>/<preset>/arms when left out"
    )
    parser.add_argument("--out", type=new_folder, help="folder for the scores; units in that of --runs when left out")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs")
    options = parser.parse_args(arguments)
    baseline = build_config(options.study, options.preset)
    study = baseline.study
    check_segmentation(study)
    from sedm.data.study_data import load_study
    from sedm.experiments.arm_runs import IGNORED, train_arms
    from sedm.experiments.arms import SWEEPS, list_arm_runs
    from sedm.experiments.runs import is_finished

    refuse_among_images(options.out, study)
    arms = [name for asked in options.arms for name in SWEEPS.get(asked, {0: asked}).values()]
    folder = options.runs or Path("data/runs", study.name, options.preset, "arms")
    out = options.out or folder / "units"
    runs = list_arm_runs(baseline, arms, options.annotated, options.draws, options.seeds)
    if options.dry_run:
        for run in runs:
            print(f"{run.name:44} {'finished' if is_finished(run, out, IGNORED) else 'waiting'}")
        return 0
    data = load_study(baseline, options.data)
    for n_annotated in {run.config.data.n_annotated_groups for run in runs}:
        data.label_subset(n_annotated, seed=0)  # refuses more groups than there are
    return 1 if train_arms(baseline, runs, data, folder, out) else 0
