"""Synthetic patch tables: layouts, styles, and images of which each can be made again on its own.

sedm generate --model DIR --layouts DIR|FILE --styles FILE|DIR --n-images 2000 --seed 0 --out DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import datasets
from accelerate import PartialState
from tqdm import tqdm

from sedm.config import PRESETS, SamplingConfig, build_config
from sedm.config.study import find_study
from sedm.data.patch_table import load_patches
from sedm.data.patches import Patches
from sedm.generation.dataset_card import push_to_hub, write_card
from sedm.generation.pairing import GivenLayouts, Pairing, mean_shares
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
from sedm.layouts import LayoutPrior, load_prior
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


class _Source(NamedTuple):
    """A patch table named on the command line."""

    patches: Patches
    ids: list[str]  # of its rows
    image_classes: list[str] | None  # of whole images, where the study has any


def _read_table(path: Path, options: argparse.Namespace, pipeline: SEDMPipeline) -> _Source:
    study, of_model = find_study(options.study) if options.study else None, pipeline.denoiser.config
    classes = study.classes if study else [f"class {k}" for k in range(of_model.n_classes)]
    table = load_patches(path, options.split, study.group_column if study else "group")
    patches = Patches.from_table(table, classes, of_model.image_size, name=str(path))
    column = study.image_class if study else ""
    image_classes = list(map(str, table[column])) if column in table.column_names else None
    return _Source(patches, [f"{path.stem}/{row}" for row in range(len(patches))], image_classes)


def _read_layouts(
    options: argparse.Namespace, pipeline: SEDMPipeline
) -> tuple[LayoutPrior | GivenLayouts, dict[str, str] | None]:
    """Read a fitted prior, or the masks of a patch table and the image classes of their rows by id."""
    if (options.layouts / "layout_prior.safetensors").exists():
        return load_prior(options.layouts), None
    source = _read_table(options.layouts, options, pipeline)
    rows = source.patches.has_mask.nonzero().flatten().tolist()
    ids = [source.ids[row] for row in rows]
    image_classes = source.image_classes and {source.ids[row]: source.image_classes[row] for row in rows}
    return GivenLayouts(source.patches.masks[rows], ids), image_classes


def _read_styles(options: argparse.Namespace, pipeline: SEDMPipeline, config: SamplingConfig) -> tuple[StyleBank, dict]:
    """Read a stored style bank, or embed a patch table and list what it tells a ``Pairing`` of its groups."""
    if options.styles.suffix == ".safetensors":
        return StyleBank.load(options.styles), {}
    source = _read_table(options.styles, options, pipeline)
    patches, of_groups = source.patches, None
    if config.pairing == "composition":
        of_groups = mean_shares(patches)
    if config.pairing == "class" and source.image_classes:
        of_groups = {name: set() for name in patches.groups}
        for name, image_class in zip(patches.groups, source.image_classes, strict=True):
            of_groups[name].add(image_class)
    annotated_groups = set(patches.annotated().groups)
    return embed_bank(pipeline, patches, source.ids), {"of_groups": of_groups, "annotated_groups": annotated_groups}


def _settings() -> list[dataclasses.Field]:
    """List the settings that decide the images; filtering comes after them."""
    return [field for field in dataclasses.fields(SamplingConfig) if field.name != "filter_percentile"]


def _generate(options: argparse.Namespace) -> datasets.Dataset:
    preset = options.preset
    settings = build_config(options.study, preset).sampling if options.study else PRESETS[preset]["sampling"]
    changes = {field.name: getattr(options, field.name) for field in _settings()}
    changes = {name: value for name, value in changes.items() if value is not None}
    config = dataclasses.replace(settings, **changes)
    pipeline = SEDMPipeline.from_pretrained(options.model)
    pipeline.to(PartialState(cpu=pick_device().type == "cpu", timeout=LONGEST_WAIT).device)
    layouts, of_layouts = _read_layouts(options, pipeline)
    styles, facts = _read_styles(options, pipeline, config)
    pairing = Pairing(styles, config, of_layouts=of_layouts, **facts)
    return generate_patches(
        pipeline, layouts, styles, config, options.seed, options.out, pairing=pairing, study=options.study
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a synthetic patch table; under a launcher, on several processes. Goes on where it was stopped."""
    parser = argparse.ArgumentParser("sedm generate", description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder that SEDMPipeline.save_pretrained wrote")
    parser.add_argument("--layouts", type=Path, required=True, help="folder of a fitted prior, or a patch table")
    parser.add_argument("--styles", type=Path, required=True, help="a style bank (.safetensors), or a patch table")
    # torchrun takes "--n" for one of its own options
    parser.add_argument(
        "--n-images", "--n", type=int, required=True, help="in the table; write it in full for torchrun"
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the table; all processes must see it")
    parser.add_argument("--study", default="", help="for the attribution, and its settings")
    parser.add_argument("--preset", choices=list(PRESETS), default="quick", help="whose settings hold")
    parser.add_argument("--split", help="of patch tables that have several")
    parser.add_argument("--push-to", metavar="REPO", help="afterwards, to this private data set of the Hub")
    for field in _settings():  # instead of those of the preset
        if field.name != "n_images":
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default))
    options = parser.parse_args(arguments)
    print(f"{options.out}: {len(_generate(options))} images")
    if options.push_to and PartialState().is_main_process:
        print(push_to_hub(options.out, options.push_to))
