"""Shards of a synthetic table: which images are in which, how they are made, and whose folder they may lie in.

Sampling runs in micro-batches aligned on the image's number and always full, because rounding depends on the shape of a
batch. So an image has the same bytes in any shard, on any number of processes, and after any interruption.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import datasets
import torch
from jaxtyping import Float
from torch import Tensor

from sedm.data.patch_table import from_arrays, save_patches
from sedm.generation.pairing import GivenLayouts, Pairing, StyleChoice
from sedm.generator.pipeline import SEDMPipeline, noise_generators
from sedm.layouts import LayoutPrior
from sedm.runtime.files import replacing
from sedm.runtime.fingerprints import hash_of
from sedm.styles.bank import StyleBank

SPLIT, CLAIM = "train", "generation.json"


def shard_ranges(folder: str | Path, n_images: int, n_shard: int) -> dict[Path, range]:
    """List the files of a table and the images in each.

    >>> {path.name: list(indices) for path, indices in shard_ranges("synthetic", 5, 3).items()}
    {'train-00000-of-00002.parquet': [0, 1, 2], 'train-00001-of-00002.parquet': [3, 4]}
    """
    firsts = range(0, n_images, n_shard)
    return {
        Path(folder) / f"{SPLIT}-{shard:05d}-of-{len(firsts):05d}.parquet": range(first, min(first + n_shard, n_images))
        for shard, first in enumerate(firsts)
    }


def claim_folder(folder: Path, configuration: dict, replace_stale: bool = False, write: bool = True) -> None:
    """Claim ``folder`` for a configuration; it may hold shards of this very one, and no others.

    Args:
        replace_stale: delete shards of another configuration; those of unknown origin are never deleted.
        write: False only looks, for all processes but one.

    Raises:
        ValueError: names the first setting that differs.
    """
    path, settings = folder / CLAIM, json.loads(json.dumps(configuration))
    shards = list(folder.glob("*.parquet"))
    if shards and not path.exists():
        raise ValueError(f"{folder}: holds {shards[0].name}, and no {CLAIM} tells what made it; choose another folder")
    stored = json.loads(path.read_text()) if path.exists() else settings
    differing = [key for key in settings | stored if settings.get(key) != stored.get(key)]
    if differing and not replace_stale:
        key = differing[0]
        raise ValueError(
            f"{folder}: holds images made with {key} = {stored.get(key)!r}, not {settings.get(key)!r}; "
            "choose another folder or delete this one"
        )
    if not write:
        return
    stale = folder.glob(f"{SPLIT}-*.parquet") if differing else ()
    for file in [*stale, *folder.glob(f".{SPLIT}-*.tmp.parquet")]:  # the last are what kill -9 left half-written
        file.unlink()
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n")


def save_shard(table: datasets.Dataset, path: Path) -> None:
    """Write a shard, whole or not at all.

    Raises:
        OSError: the disk is full; says what to do. Nothing half-written remains.
    """
    try:
        save_patches(table, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"{path}: the disk is full; finished shards are kept, so make room and start the same command again",
        ) from error


def generate_shard(
    pipeline: SEDMPipeline,
    layouts: LayoutPrior | GivenLayouts,
    pairing: Pairing,
    seed: int,
    indices: range,
    model_name: str,
) -> datasets.Dataset:
    """Generate the images ``indices`` of the synthetic table; they are the same in any shard."""
    config, rows = pairing.config, []
    for first in range(indices[0] - indices[0] % config.micro_batch, indices[-1] + 1, config.micro_batch):
        micro_batch = _sample_micro_batch(pipeline, layouts, pairing, seed, first)
        rows += [row for row in micro_batch if row["index"] in indices]
    same = {"pairing": config.pairing, "seed": seed, "guidance_scale": config.guidance_scale}
    same |= {"n_steps": config.n_steps, "model": model_name, "mask_source": "generated"}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns |= {name: [value] * len(rows) for name, value in same.items()}
    pictures = [torch.stack(columns.pop(name)).numpy() for name in ("image", "mask")]
    return from_arrays(*pictures, columns.pop("group"), **columns)


def mix_style(pipeline: SEDMPipeline, bank: StyleBank, choice: StyleChoice) -> Float[Tensor, "1 n_tokens dim"]:
    """Make one style: the images of each group aggregated, and the groups mixed by their weights."""
    weights = list(choice.group_weights(bank).values())
    embeddings = bank.embeddings[choice.rows].unflatten(0, (len(weights), -1))
    return pipeline.mix_styles(pipeline.aggregate(embeddings), weights)


def weights_hash(pipeline: SEDMPipeline) -> str:
    """Hash the weights of the model, those of its autoencoder included."""
    parts = [pipeline.style_encoder, pipeline.denoiser]
    parts += [] if pipeline.autoencoder is None else [pipeline.autoencoder]
    return hash_of(*(weight.detach().float() for part in parts for weight in part.state_dict().values()))


def layout_ids(layouts: LayoutPrior | GivenLayouts, n: int, *, seed: int, first: int = 0) -> list[str]:
    """Name the layouts of images ``first``…``first + n − 1``; those of a prior have numbers."""
    if isinstance(layouts, GivenLayouts):
        return layouts.sample_ids(n, seed=seed, first=first)
    return [f"{seed}-{index}" for index in range(first, first + n)]


def _sample_micro_batch(pipeline, layouts, pairing: Pairing, seed: int, first: int) -> list[dict]:
    """Sample rows first…first + micro_batch − 1 of the table, beyond its end as well."""
    config, bank = pairing.config, pairing.bank
    n, indices = config.micro_batch, range(first, first + config.micro_batch)
    masks, ids = layouts.sample(n, seed=seed, first=first), layout_ids(layouts, n, seed=seed, first=first)
    choices = [pairing.choose(seed, index, mask, name) for index, mask, name in zip(indices, masks, ids, strict=True)]
    # each style on its own: aggregated in one batch, its rounding would depend on the others
    styles = torch.cat([mix_style(pipeline, bank, choice) for choice in choices])
    options = config.n_steps, config.guidance_scale, "pt"
    images = pipeline(masks, styles, noise_generators(seed, indices), *options).images.permute(0, 2, 3, 1)
    weights = [choice.group_weights(bank) for choice in choices]
    return [
        {
            "image": images[i],
            "mask": masks[i],
            "group": max(weights[i], key=weights[i].get),
            "index": indices[i],
            "layout_id": ids[i],
            "style_groups": list(weights[i]),
            "style_images": [bank.image_ids[row] for row in choices[i].rows],
            "weights": choices[i].weights,
        }
        for i in range(n)
    ]
