"""Synthetic patch tables: layouts, styles, and images of which each can be made again on its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import datasets
from accelerate import PartialState
from tqdm import tqdm

from sedm.config import SamplingConfig
from sedm.config.study import find_study
from sedm.data.patch_table import load_patches
from sedm.data.patches import Patches
from sedm.generation.dataset_card import write_card
from sedm.generation.pairing import GivenLayouts, Pairing
from sedm.generation.shards import (
    SPLIT,
    claim_folder,
    generate_shard,
    layout_ids,
    mix_style,
    save_shard,
    shard_ranges,
    weights_hash,
)
from sedm.generator.pipeline import SEDMPipeline
from sedm.layouts import LayoutPrior
from sedm.runtime.fingerprints import hash_of
from sedm.runtime.hardware import pick_device
from sedm.styles.bank import StyleBank

MICRO_BATCHES_PER_SHARD = 4  # what kill -9 loses at most, for each process
LONGEST_WAIT = timedelta(days=7)  # of a process that is done, for the others


def generate_patches(
    pipeline: SEDMPipeline,
    layouts: LayoutPrior | GivenLayouts,
    styles: StyleBank,
    config: SamplingConfig,
    seed: int,
    folder: str | Path,
    *,
    pairing: Pairing | None = None,
    study: str = "",
    replace_stale: bool = False,
    progress: bool = True,
) -> datasets.Dataset:
    """Generate a synthetic patch table of ``config.n_images``, whose groups are those that lent the style.

    Image i takes layout i of ``layouts`` and the style of the groups that ``pairing`` finds for it, all decided by
    (seed, i). Its bytes depend on nothing else but model and configuration, on one kind of machine. Another
    ``micro_batch`` or number of threads may round differently; no grey level differed in a trial of the `full` model in
    float32 with 1, 4 and 16 images a batch on 1 and 2 threads. Under a launcher every process makes its share of the
    shards. Finished shards in ``folder`` are not made again.

    Args:
        layouts: a prior of `sedm.layouts`, or masks to be used as they are.
        styles: what may be lent; ``embed_bank`` makes it from patches.
        folder: seen by all processes.
        pairing: of ``styles`` under ``config``; needed when it must know more than these tell.
        study: its name or file, for the attribution in the dataset card; "" where there is none.
        replace_stale: delete shards that another model or configuration left in ``folder``.

    Raises:
        ValueError: layouts, styles and model that do not fit each other, or shards of another configuration in
            ``folder``; they are left alone unless ``replace_stale`` is set.
        OSError: the disk is full; finished shards stay.

    The columns are those of ``sedm.generation.dataset_card.COLUMNS``.
    """
    state = PartialState(cpu=pick_device().type == "cpu", timeout=LONGEST_WAIT)
    folder, model_name = Path(folder), weights_hash(pipeline)
    of_study = find_study(study) if study else None
    pairing = pairing or Pairing(styles, config)
    check_inputs(pipeline, layouts, styles, config, pairing, model_name)
    decisive = _decisive(layouts, styles, config, pairing, seed, model_name)
    claim_folder(folder, decisive, replace_stale, write=state.is_main_process)
    state.wait_for_everyone()
    pipeline.to(state.device)
    pipeline.set_progress_bar_config(disable=True)
    shards = shard_ranges(folder, config.n_images, decisive["images_per_shard"])

    def n_finished() -> int:
        return sum(len(indices) for path, indices in shards.items() if path.exists())

    hidden = not (progress and state.is_main_process)
    with tqdm(total=config.n_images, initial=n_finished(), desc="generating", unit="image", disable=hidden) as bar:
        for path, indices in list(shards.items())[state.process_index :: state.num_processes]:
            if not path.exists():
                save_shard(generate_shard(pipeline, layouts, pairing, seed, indices, model_name), path)
            bar.update(n_finished() - bar.n)  # of all processes
        state.wait_for_everyone()
        bar.update(n_finished() - bar.n)
    with state.main_process_first():
        if state.is_main_process:
            write_card(folder, of_study)
        return load_patches(folder, SPLIT)


def embed_bank(pipeline: SEDMPipeline, patches: Patches, image_ids: Sequence[str] | None = None) -> StyleBank:
    """Embed images so that their styles can be lent; their ids are their row numbers when left out."""
    ids = map(str, range(len(patches))) if image_ids is None else image_ids
    return StyleBank(pipeline.embed(patches.images), patches.groups, list(ids), weights_hash(pipeline))


def check_inputs(
    pipeline: SEDMPipeline,
    layouts: LayoutPrior | GivenLayouts,
    styles: StyleBank,
    config: SamplingConfig,
    pairing: Pairing,
    model_name: str,
) -> None:
    """Refuse layouts, styles, a pairing and a model that do not fit each other.

    Raises:
        ValueError: says what does not.
    """
    size, n_classes = pipeline.denoiser.config.image_size, pipeline.denoiser.config.n_classes
    length, model_length = styles.embeddings.shape[1], pipeline.style_encoder.embedding_dim
    if length != model_length:
        raise ValueError(
            f"style embeddings of length {length}; this model's have {model_length}, so embed the images with it"
        )
    if styles.model not in ("", model_name):
        raise ValueError(f"the styles were embedded by the model {styles.model}, not by {model_name}; embed them again")
    if pairing.bank is not styles or pairing.config != config:
        raise ValueError("the pairing was made for other styles or another configuration; make it from these")
    if tuple(layouts.size) != (size, size):
        raise ValueError(f"layouts of {layouts.size[0]}×{layouts.size[1]} px; this model takes {size}×{size}")
    if isinstance(layouts, LayoutPrior) and len(layouts.classes) != n_classes:
        raise ValueError(
            f"layouts of {len(layouts.classes)} classes ({', '.join(layouts.classes)}), but a model of {n_classes}; "
            "take both from the same study"
        )
    if isinstance(layouts, GivenLayouts):
        highest = layouts.masks.flatten(1).amax(1)
        if (highest >= n_classes).any():
            row = int((highest >= n_classes).nonzero()[0])
            raise ValueError(
                f"layout {layouts.ids[row]!r} holds {highest[row]}, outside the classes 0..{n_classes - 1} of this "
                "model; give fully annotated masks of the study it was trained on"
            )
        pairing.check_layouts(layouts.ids)
    # the first style of all, so that what the aggregation refuses is refused now
    layout, name = layouts.sample(1, seed=0)[0], layout_ids(layouts, 1, seed=0)[0]
    mix_style(pipeline, styles, pairing.choose(0, 0, layout, name))


def _decisive(layouts, styles: StyleBank, config: SamplingConfig, pairing: Pairing, seed: int, model_name: str) -> dict:
    """List all that decides the bytes of the shards."""
    settings = {field.name: getattr(config, field.name) for field in _settings()}
    given = isinstance(layouts, GivenLayouts)
    of_layouts = layouts.masks if given else layouts.sample(4, seed=seed)
    return {
        **settings,
        "seed": seed,
        "model": model_name,
        "layout_source": "given, used as they are" if given else f"drawn from a prior ({layouts.kind})",
        "layouts": hash_of(of_layouts) + (hash_of(json.dumps(layouts.ids)) if given else ""),
        "styles": hash_of(styles.embeddings) + hash_of(json.dumps([styles.groups, styles.image_ids])),
        "lenders": hash_of(json.dumps(pairing.facts)),
        "images_per_shard": config.micro_batch * MICRO_BATCHES_PER_SHARD,
    }


def _settings() -> list[dataclasses.Field]:
    """List the settings that decide the images; filtering comes after them."""
    return [field for field in dataclasses.fields(SamplingConfig) if field.name != "filter_percentile"]
