"""Running the arms of the segmentation experiment, compared on the same groups after as many steps.

A unit (`sedm.experiments.arms`) is written to one file. Finished units are skipped and interrupted ones start again.
Processes started with the same folders share the work::

    OMP_NUM_THREADS=1 sedm segment tissue --draws 0 & OMP_NUM_THREADS=1 sedm segment tissue --draws 1
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from sedm.config import PRESETS, Config, build_config
from sedm.config.studies import STUDIES
from sedm.data.patches import Patches, to_tensors
from sedm.experiments.arms import ARMS, EVERY_ARM, SWEEPS, Arm, Unit, list_units
from sedm.experiments.subsets import STYLES, TRANSFERS, Draw, StudyData, draw_name, load_study_data
from sedm.experiments.units import claim, finish_units, is_finished
from sedm.fidelity import segmenter_extractor
from sedm.fidelity.unseen import draw_unseen, measure_generator
from sedm.generation.shards import weights_hash
from sedm.generator.pipeline import SEDMPipeline
from sedm.runtime.files import replacing
from sedm.runtime.results import Results
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import kept_segmenter, predict, train_segmenter

IGNORED = (
    *(f"arms.{name}" for name in ("compared", "swept", "label_counts", "by_labels", "n_draws")),
    *("arms.also_annotated", "arms.also_compared", "arms.longer"),
    "segmentation.n_seeds",
    *(f"arms.{name}_fraction" for name in ("synthetic", "pseudo_label", "transfer")),
    *("arms.colour_jitter", "arms.consistency_weight"),
    *("layouts.prior", "layouts.n_compared"),
)
"""Settings that say which units there are, that are in those of the segmenter, or that concern other notebooks."""


def run_arms(
    baseline: Config,
    units: Sequence[Unit],
    data: str | Path,
    runs: Path,
    out: Path,
    generators: Mapping[str, SEDMPipeline] | None = None,
    replace_stale: bool = False,
    wait: bool = False,
) -> list[Unit]:
    """`sedm.experiments.units.finish_units` of these units of ``baseline``.

    A unit of other data, or of another generator that was given, is not taken for one of these.

    Args:
        data: folder of parquet files of a study that is not embedded.
        runs: keeps generators, synthetic images and predictions.
        out: receives a file for each unit, and in ``generators`` one for each generator trained here.
        generators: already trained ones, by the name of the draw ("n6-draw0") whose masks they have seen.
        replace_stale: others in ``out`` are run again and overwritten.
        wait: for units that other processes have begun.

    Raises:
        ValueError: ``out`` holds a unit of other settings, data or generators.
    """
    study = load_study_data(baseline, data)
    given = {name: weights_hash(pipeline) for name, pipeline in (generators or {}).items()}

    def facts(unit: Unit) -> dict[str, str]:
        name = draw_name(unit.config, unit.draw)
        lent = EVERY_ARM[unit.arm].synthetic in STYLES and name in given and unit.config.model == baseline.model
        return {"data": study.checksum} | ({"generator": given[name]} if lent else {})

    def prepare() -> Callable[[Unit], str]:
        draws = {}

        def finish(unit: Unit) -> str:
            config = unit.config
            sections = {"data": config.data, "model": config.model, "arms": config.arms}
            key = unit.draw, *sections.values()
            if key not in draws:
                draws[key] = Draw(replace(baseline, **sections), study, unit.draw, runs)
                own = (generators or {}).get(draws[key].folder.name)
                if own and config.model == baseline.model:
                    draws[key].generator = own
            found = run_unit(unit, draws[key], study, out)
            if EVERY_ARM[unit.arm].synthetic in STYLES and not generators:
                keep_measures(draws[key], out / "generators")
            return ", ".join(f"{split} {score:.3f}" for split, score in found.items())

        return finish

    return finish_units(units, prepare, runs, out, IGNORED, replace_stale, facts, wait)


def run_unit(unit: Unit, draw: Draw, study: StudyData, out: Path) -> dict[str, float]:
    """The mean IoU over groups of each held-out split, after training the network and writing its scores to ``out``.

    Predictions on the test split stay in the run folder.
    """
    config, arm, n_classes = unit.config, EVERY_ARM[unit.arm], len(draw.classes)
    results = Results(config, out, draw.runs)
    results.folder = out
    real = to_tensors(study.table, config.data.image_size) if arm.all_masks else draw.train
    synthetic = synthetic_pairs(draw, arm, config)
    unannotated = draw.unannotated.images if arm.unannotated else None
    given = real.annotated(), config.segmentation, n_classes, config.seed, synthetic, unannotated
    network = train_segmenter(*given, progress=sys.stderr.isatty())
    scores, means = {}, {}
    for split, patches in study.held_out.items():
        prediction = predict(network, patches.images)
        table = score_groups(prediction, patches.masks, patches.groups, n_classes).set_index("group")
        scores[split] = {"iou": table["mean_iou"].to_dict(), "dice": table["mean_dice"].to_dict()}
        means[split] = table["mean_iou"].mean()
        if split == "test":
            with replacing(draw.runs / "predictions" / f"{unit.name}.safetensors") as temporary:
                save_file({"predictions": prediction}, temporary)
    values = {"arm": unit.arm, "n_annotated": config.data.n_annotated_groups, "draw": unit.draw, "seed": config.seed}
    values |= {"data": study.checksum, "n_real": len(given[0].groups), "scores": scores}
    values |= {"generator": weights_hash(draw.generator)} if arm.synthetic in STYLES else {}
    results.save_values(unit.name, values | {"n_synthetic": 0 if synthetic is None else len(synthetic.groups)})
    return means


def load_predictions(runs: Path, arm: str, n_annotated: int, draw: int, seed: int = 0) -> UInt8[Tensor, "n h w"]:
    """What the network of one unit says of the images of the test split.

    Raises:
        FileNotFoundError: the unit was not run with this folder of runs.
    """
    return load_file(runs / "predictions" / f"{arm}-n{n_annotated}-draw{draw}-seed{seed}.safetensors")["predictions"]


def synthetic_pairs(draw: Draw, arm: Arm, config: Config) -> Patches | None:
    """The pairs that an arm adds to the annotated ones; None where it adds none."""
    labelled = draw.pseudo_labelled() if arm.pseudo_labels else None
    if not arm.synthetic:
        return labelled
    pairs = draw.transfer(arm.synthetic) if arm.synthetic in TRANSFERS else draw.generate(arm.synthetic)
    pairs = pairs.select(range(round(arm.share * len(pairs.groups))))
    percentile = config.sampling.filter_percentile
    pairs = draw.filtered(pairs, percentile) if percentile else pairs
    if labelled is None:
        return pairs
    images, masks = torch.cat([pairs.images, labelled.images]), torch.cat([pairs.masks, labelled.masks])
    return Patches(images, masks, pairs.groups + labelled.groups)


def keep_measures(draw: Draw, out: Path) -> None:
    """Write what `sedm.fidelity.unseen` measures of the draw's generator to ``out``, once a generator.

    Distances are on the features of one network for all draws, so that their generators compare. It sees all training
    masks, and nothing is trained with what it says.
    """
    name, weights = f"{draw.folder.name}-{draw.config.model.aggregation}", weights_hash(draw.generator)
    path = out / f"values_{name}.json"
    with claim(draw.folder / "measures.lock", wait=True):
        if path.exists() and json.loads(path.read_text())["values"].get("generator") == weights:
            return
        validation, test = (draw.study.held_out[split] for split in ("validation", "test"))
        train = to_tensors(draw.study.table, draw.config.data.image_size)
        segmentation, n_classes = draw.config.segmentation, len(draw.classes)
        with claim(draw.runs / "judge.lock", wait=True):
            judge = kept_segmenter(draw.runs, "judge", validation, segmentation, n_classes, seed=0)
            observer = kept_segmenter(draw.runs, "observer", train, segmentation, n_classes, seed=0)
        trained_on = f"all masks of the training groups, colour jitter {segmentation.colour_jitter:g}"
        unseen = draw_unseen(test, judge, segmenter_extractor(observer, trained_on), draw.classes)
        results = Results(draw.config, out, draw.runs)
        results.folder = out
        measured = measure_generator(draw.generator, draw.config, unseen)
        results.save_values(name, measured | {"generator": weights})


def main(arguments: list[str] | None = None) -> int:
    """Train and score segmentation networks of a study, one file for each arm, draw and seed."""
    parser = argparse.ArgumentParser("sedm segment", description=main.__doc__)
    parser.add_argument("study", choices=[name for name, study in STUDIES.items() if study.kind == "tissue"])
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    names = ", ".join([*ARMS, *(f"{name} (all of a sweep)" for name in SWEEPS)])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="ARM", help=f"of {names}")
    parser.add_argument("--annotated", type=int, nargs="+", metavar="N", help="groups; the preset's when left out")
    parser.add_argument("--draws", type=int, nargs="+", help="which draws of them")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the networks")
    parser.add_argument("--data", default="", help="folder of parquet files, for a study that is not embedded")
    parser.add_argument("--runs", type=Path, help="for generators; data/runs/<study>/<preset>/arms when left out")
    parser.add_argument("--out", type=Path, help="for the scores; in the folder of runs when left out")
    parser.add_argument("--dry-run", action="store_true", help="only list the units")
    given = parser.parse_args(arguments)
    runs = given.runs or Path("data/runs", given.study, given.preset, "arms")
    out = given.out or runs / "units"
    arms = [name for asked in given.arms for name in SWEEPS.get(asked, {0: asked}).values()]
    baseline = build_config(given.study, given.preset)
    units = list_units(baseline, arms, given.annotated, given.draws, given.seeds)
    if given.dry_run:
        for unit in units:
            print(f"{unit.name:44} {'finished' if is_finished(unit, out, IGNORED) else 'waiting'}")
        return 0
    return 1 if run_arms(baseline, units, given.data, runs, out) else 0
