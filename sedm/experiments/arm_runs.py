"""Running the arms of the segmentation experiment, compared on the same groups after as many steps.

A run (`sedm.experiments.arms`) is written to one file. Finished runs are skipped and interrupted ones start again.
Processes started with the same folders share the work::

    OMP_NUM_THREADS=1 sedm segment tissue --draws 0 & OMP_NUM_THREADS=1 sedm segment tissue --draws 1
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from sedm.config import Config
from sedm.data.patches import Patches
from sedm.data.study_data import StudyData
from sedm.experiments.arms import EVERY_ARM, Arm, ArmRun
from sedm.experiments.runs import claim, finish_runs
from sedm.experiments.subsets import STYLES, TRANSFERS, LabelSubset, subset_name
from sedm.fidelity import segmenter_extractor
from sedm.fidelity.unseen import draw_unseen, measure_generator
from sedm.generation.filtering import ignore_contradicted
from sedm.generation.shards import weights_hash
from sedm.generator.pipeline import SEDMPipeline
from sedm.runtime.files import replacing
from sedm.runtime.results import Results
from sedm.segmentation.adaptation import predict_groups
from sedm.segmentation.scores import score_groups
from sedm.segmentation.segmenter import kept_segmenter, predict, train_segmenter

IGNORED = (
    "arms.compared",
    "arms.swept",
    "arms.label_counts",
    "arms.by_labels",
    "arms.also_annotated",
    "arms.also_compared",
    "arms.longer",
    "arms.n_draws",
    "arms.n_seeds",
    "arms.pseudo_label_fraction",
    "arms.transfer_fraction",
    "layouts.prior",
    "layouts.n_compared",
)
"""Settings of which runs there are, the fractions of kinds of arms, and settings of other notebooks.

The fraction of a run itself is its ``arms.synthetic_fraction``.
"""


def train_arms(
    baseline: Config,
    runs: Sequence[ArmRun],
    data: StudyData,
    folder: Path,
    out: Path,
    generators: Mapping[str, SEDMPipeline] | None = None,
    replace_stale: bool = False,
    wait: bool = False,
) -> list[ArmRun]:
    """Train and score the segmentation network of every run that is not finished.

    A finished run of other data, or of another generator than the one handed over, does not count.

    Args:
        baseline: the settings that runs change.
        data: of the study.
        folder: keeps generators, synthetic images and predictions.
        out: receives a file for each run, and in ``generators`` one for each generator trained here.
        generators: already trained ones, by the name of the label subset ("n6-draw0") whose masks they have seen.
        replace_stale: train runs of other settings again and overwrite them.
        wait: for runs that other processes have begun.

    Returns:
        The runs whose training diverged.

    Raises:
        ValueError: ``out`` holds a run of other settings, data or generators.
    """
    generators = generators or {}
    generator_hashes = {name: weights_hash(pipeline) for name, pipeline in generators.items()}

    def lent_generator(run: ArmRun) -> str:
        """Name the generator that is handed over for a run, "" where there is none."""
        name = subset_name(run.config, run.draw)
        return name if name in generators and run.config.model == baseline.model else ""

    def facts(run: ArmRun) -> dict[str, str]:
        lent = lent_generator(run) if EVERY_ARM[run.arm].uses_subset_generator else ""
        return {"data": data.checksum} | ({"generator": generator_hashes[lent]} if lent else {})

    def prepare() -> Callable[[ArmRun], str]:
        subsets: dict[tuple, LabelSubset] = {}

        def finish(run: ArmRun) -> str:
            arms = replace(baseline.arms, layouts=run.config.arms.layouts)  # the rest concerns the run's network
            sections = {"data": run.config.data, "model": run.config.model, "arms": arms}
            key = run.draw, *sections.values()
            if key not in subsets:
                generator = generators.get(lent_generator(run))
                subsets[key] = LabelSubset(replace(baseline, **sections), data, run.draw, folder, generator)
            scores = train_arm(run, subsets[key], out)
            if EVERY_ARM[run.arm].uses_subset_generator and not generators:
                save_measures(subsets[key], out / "generators")
            return ", ".join(f"{split} {score:.3f}" for split, score in scores.items())

        return finish

    return finish_runs(runs, prepare, folder, out, IGNORED, replace_stale, facts, wait)


def train_arm(run: ArmRun, subset: LabelSubset, out: Path) -> dict[str, float]:
    """Train the network of one run and write its scores to ``out``; predictions on the test split stay with the runs.

    Returns:
        The mean IoU over groups of each held-out split.
    """
    config, arm = run.config, EVERY_ARM[run.arm]
    results = Results(config, out, subset.shared_folder, folder=out)
    real = (subset.data.train if arm.all_masks else subset.train).annotated()
    synthetic = synthetic_pairs(subset, arm, config)
    network = None
    for _ in range(arm.rounds):
        if network is not None:  # what was learned labels the unannotated images anew
            masks = predict(network, subset.pseudo_labelled.images)
            synthetic = synthetic_pairs(subset, arm, config, replace(subset.pseudo_labelled, masks=masks))
        network = train_segmenter(
            real,
            config.arms,
            config.seed,
            synthetic=synthetic,
            unannotated=subset.lenders.images if arm.unannotated else None,
            progress=sys.stderr.isatty(),
        )
    scores, means = {}, {}
    for split, patches in subset.data.held_out.items():
        if arm.adaptation:
            predictions = predict_groups(network, patches, arm.adaptation, real.images, TRANSFERS)
        else:
            predictions = predict(network, patches.images)
        table = score_groups(predictions, patches).set_index("group")
        scores[split] = {"iou": table["mean_iou"].to_dict(), "dice": table["mean_dice"].to_dict()}
        means[split] = table["mean_iou"].mean()
        if split == "test":
            with replacing(_prediction_path(subset.shared_folder, run.name)) as temporary:
                save_file({"predictions": predictions}, temporary)
    values = {"arm": run.arm, "n_annotated": config.data.n_annotated_groups, "draw": run.draw, "seed": config.seed}
    values |= {"data": subset.data.checksum, "n_real": len(real), "scores": scores}
    values |= {"generator": weights_hash(subset.generator_of(arm.synthetic))} if arm.synthetic in STYLES else {}
    results.save_values(run.name, values | {"n_synthetic": 0 if synthetic is None else len(synthetic)})
    return means


def load_predictions(folder: Path, arm: str, n_annotated: int, draw: int, seed: int = 0) -> UInt8[Tensor, "n h w"]:
    """Load what the network of one run predicts for the images of the test split.

    Raises:
        FileNotFoundError: the run was not made with this folder.
    """
    return load_file(_prediction_path(folder, f"{arm}-n{n_annotated}-draw{draw}-seed{seed}"))["predictions"]


def _prediction_path(folder: Path, name: str) -> Path:
    return folder / "predictions" / f"{name}.safetensors"


def synthetic_pairs(
    subset: LabelSubset, arm: Arm, config: Config, pseudo_labelled: Patches | None = None
) -> Patches | None:
    """Make the pairs that an arm adds to the annotated ones; None where it adds none.

    Args:
        pseudo_labelled: unannotated images with predicted masks; those of the subset when left out.
    """
    parts = []
    if arm.synthetic:
        pairs = subset.transfer(arm.synthetic) if arm.synthetic in TRANSFERS else subset.generate(arm.synthetic)
        pairs = pairs.select(range(round(arm.share * len(pairs))))
        percentile = config.sampling.filter_percentile
        pairs = subset.filtered(pairs, percentile) if percentile else pairs
        parts.append(pairs if arm.confidence == 1 else ignore_contradicted(subset.segmenter, pairs, arm.confidence))
    if arm.pseudo_labels:
        parts.append(subset.pseudo_labelled if pseudo_labelled is None else pseudo_labelled)
    return Patches.concatenate(parts) if parts else None


def save_measures(subset: LabelSubset, out: Path) -> None:
    """Measure the generator of a subset (`sedm.fidelity.unseen`) and write it to ``out``, once a generator.

    Distances are on the features of one network for all subsets, so that their generators compare. It sees all
    training masks, and nothing is trained with what it says.
    """
    name = f"{subset.folder.name}-{subset.config.model.aggregation}"
    generator_hash = weights_hash(subset.generator)
    path = out / f"values_{name}.json"
    with claim(subset.folder / "measures.lock", wait=True):
        if path.exists() and json.loads(path.read_text())["values"].get("generator") == generator_hash:
            return
        results = Results(subset.config, out, subset.shared_folder, folder=out)
        data, folder, segmentation = subset.data, subset.shared_folder, subset.config.segmentation
        with claim(folder / "judge.lock", wait=True):
            judge = kept_segmenter(folder, "judge", data.validation, segmentation, seed=0)
            observer = kept_segmenter(folder, "observer", data.train, segmentation, seed=0)
        trained_on = f"all masks of the training groups, colour jitter {segmentation.colour_jitter:g}"
        unseen = draw_unseen(data.test, judge, segmenter_extractor(observer, trained_on))
        measures = measure_generator(subset.generator, subset.config, unseen)
        results.save_values(name, measures | {"generator": generator_hash})
