"""The comparison across laboratories: what the runs of all folds say together, by the rules of ``figures/protocol.md``.

    python -m tests.benchmarks.laboratories A8 --annotated 8 figures/laboratories/ebhi_to_glas*

Runs are made by ``sedm segment <study.toml> --preset full --out figures/laboratories/<study>``, a folder for each fold.
Written to ``figures/laboratories/``: ``values_<question>.json`` and two figures, of differences and of groups. No
network is trained here, and no image is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sedm.experiments.comparison import compare_arms, run_facts
from sedm.experiments.laboratories import LaboratoryComparison, compare_laboratories, read_folds
from sedm.figures import arms_strip_plot, forest_plot, set_plot_style
from sedm.runtime.files import replacing

from .measure import save_values

FOLDER = Path("figures/laboratories")
ZERO_SHOT, CEILING = "sedm_zero_shot", "all_annotations"


def best_abroad(compared: LaboratoryComparison) -> str:
    """Name the control with the highest mean where it is tested; test groups choose it, so it decides nothing."""
    return compared.arms[compared.arms["kind"] == "control"]["mean"].idxmax()


def draw_figures(compared: LaboratoryComparison, question: str) -> list[Path]:
    """Draw the differences of all arms from the strongest control, and the scores of the groups of a few."""
    wanted = dict.fromkeys(["real", compared.control, best_abroad(compared), ZERO_SHOT, compared.method, CEILING])
    columns = [arm for arm in wanted if arm in compared.by_group]
    figures = {
        "": forest_plot(compared.arms.drop(index=compared.control), compared.control, "foreground IoU"),
        "_groups": arms_strip_plot(compared.by_group[columns], ylabel="foreground IoU"),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(FOLDER / f"fig_{question}{name}.png")
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, metadata={"Software": None})
    return paths


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.laboratories", description=__doc__.splitlines()[0])
    parser.add_argument("question", help="as the protocol calls it, such as A8")
    parser.add_argument("folds", nargs="+", type=Path, help="folders with the runs of a fold each")
    parser.add_argument("--annotated", type=int, required=True, help="groups that keep their masks")
    given = parser.parse_args()
    set_plot_style()
    folds = sorted(folder for folder in given.folds if folder.is_dir())
    compared = compare_laboratories(folds, given.annotated)
    figures, abroad = draw_figures(compared, given.question), best_abroad(compared)
    against = compare_arms(read_folds(folds, given.annotated), abroad, given.annotated)
    values = {
        "finding": compared.finding,
        "control": compared.control,
        "method": compared.method,
        "arms": compared.arms.to_dict("index"),
        "best_abroad": abroad,
        "against_best_abroad": against.to_dict("index"),
        "groups": compared.by_group.to_dict(),
        "folds": {folder.name: run_facts(folder) for folder in folds},
    }
    print(save_values(given.question, values, figures, FOLDER))
    shown = ["mean", "sd", "worst", "mean_difference", "ci_low", "ci_high", "p_adjusted", "sd_ratio"]
    print(compared.arms[[*shown, "validation", "source", "n_units"]].round(3).to_string())
    print(compared.finding)
    print(f"against {abroad}, best where it is tested:")
    print(against[shown[:-1]].round(3).to_string())


if __name__ == "__main__":
    main()
