"""Synthetic patch tables: layouts from a prior, styles from a bank, every image reproducible on its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import datasets
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from sedm.config import SamplingConfig
from sedm.data.patches import from_arrays, save_patches
from sedm.files import replacing
from sedm.pipeline import SEDMPipeline, noise_generators
from sedm.seeds import seeded_generator
from sedm.styles import StyleBank, draw_style_rows

MICRO_BATCHES_PER_SHARD = 4


def generate_patches(
    pipeline: SEDMPipeline,
    prior,
    bank: StyleBank,
    config: SamplingConfig,
    seed: int,
    folder: str | Path,
    replace_stale: bool = False,
    progress: bool = True,
) -> datasets.Dataset:
    """A synthetic patch table of ``config.n_images``, whose groups are the patients that lent the style.

    Image i takes layout i of ``prior``, a group drawn uniformly from the bank and ``config.n_style_images`` of its
    images, all decided by (seed, i); sampling runs in micro-batches aligned on i. Every finished shard is a
    parquet file in ``folder`` and is not made again.

    Args:
        prior: a layout prior of `sedm.layouts`, giving (n, h, w) class indices.
        bank: styles to borrow.
        replace_stale: delete shards that another model or configuration left in ``folder``.

    Raises:
        ValueError: ``folder`` holds such shards, and ``replace_stale`` is not set; they are left alone.

    Columns beside ``image``, ``mask``, ``group``: ``index``, ``layout_id``, ``style_images`` (ids), ``weights``,
    ``seed``, ``guidance_scale``, ``n_steps``, ``model`` (a hash of its weights).
    """
    folder, model_name = Path(folder), weights_hash(pipeline)
    decisive = {**dataclasses.asdict(config), "seed": seed, "model": model_name}
    decisive["layouts"] = tensor_hash(prior.sample(4, seed=seed))
    decisive["styles"] = tensor_hash(bank.embeddings) + text_hash("\n".join([*bank.groups, *bank.image_ids]))
    claim_folder(folder, decisive, replace_stale)
    n_shard = config.micro_batch * MICRO_BATCHES_PER_SHARD
    pipeline.set_progress_bar_config(disable=True)
    shards = []
    with tqdm(total=config.n_images, desc="generating", unit="image", disable=not progress) as bar:
        for first in range(0, config.n_images, n_shard):
            indices = range(first, min(first + n_shard, config.n_images))
            path = folder / f"shard-{first // n_shard:05d}.parquet"
            if not path.exists():
                save_patches(generate_shard(pipeline, prior, bank, config, seed, indices, model_name), path)
            shards.append(str(path))
            bar.update(len(indices))
    return datasets.Dataset.from_parquet(shards)


def generate_shard(
    pipeline: SEDMPipeline,
    prior,
    bank: StyleBank,
    config: SamplingConfig,
    seed: int,
    indices: range,
    model_name: str,
) -> datasets.Dataset:
    """Images ``indices`` of the synthetic table; they are the same in whatever shard they are asked for."""
    layouts = prior.sample(len(indices), seed=seed, first=indices[0])
    style_rows = [choose_style(bank, config.n_style_images, seed, index) for index in indices]
    styles = pipeline.aggregate(bank.embeddings[torch.tensor(style_rows)])
    images = []
    for start in range(0, len(indices), config.micro_batch):
        part = slice(start, start + config.micro_batch)
        images.append(_sample_padded(pipeline, layouts[part], styles[part], indices[part], config, seed))
    weights = [1 / config.n_style_images] * config.n_style_images
    return from_arrays(
        torch.cat(images).permute(0, 2, 3, 1).numpy(),
        layouts.numpy(),
        [bank.groups[rows[0]] for rows in style_rows],
        index=list(indices),
        layout_id=[f"{seed}-{index}" for index in indices],
        style_images=[[bank.image_ids[row] for row in rows] for rows in style_rows],
        weights=[weights for _ in indices],
        seed=[seed] * len(indices),
        guidance_scale=[config.guidance_scale] * len(indices),
        n_steps=[config.n_steps] * len(indices),
        model=[model_name] * len(indices),
    )


def choose_style(bank: StyleBank, n_images: int, seed: int, index: int) -> list[int]:
    """Rows of the bank that make the style of image ``index``: one group, several of its images.

    >>> bank = StyleBank(torch.eye(4), ["a", "a", "b", "b"], list("0123"))
    >>> rows = choose_style(bank, 2, seed=0, index=7)
    >>> rows == choose_style(bank, 2, seed=0, index=7), len({bank.groups[row] for row in rows})
    (True, 1)
    """
    generator = seeded_generator("style of a synthetic image", seed, index)
    group = bank.names[int(torch.randint(len(bank.names), (), generator=generator))]
    return draw_style_rows(bank, group, n_images, generator)


def claim_folder(folder: Path, configuration: dict, replace_stale: bool = False) -> None:
    """None, when ``folder`` is new, holds shards of this very configuration, or its stale ones were deleted.

    Raises:
        ValueError: names the first setting that differs.
    """
    path, wanted = folder / "generation.json", json.loads(json.dumps(configuration))
    shards = list(folder.glob("shard-*.parquet"))
    found = json.loads(path.read_text()) if path.exists() else {} if shards else wanted
    differing = [key for key in wanted | found if wanted.get(key) != found.get(key)]
    if differing and not replace_stale:
        key = differing[0]
        raise ValueError(
            f"{folder}: holds images made with {key} = {found.get(key)!r}, not {wanted.get(key)!r}; "
            "choose another folder or delete this one"
        )
    if differing:
        for shard in shards:
            shard.unlink()
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=1))


def weights_hash(pipeline: SEDMPipeline) -> str:
    """Twelve hexadecimal digits that change with any weight of the model."""
    parts = (pipeline.style_encoder, pipeline.denoiser)
    return tensor_hash(
        torch.cat([weight.detach().float().flatten().cpu() for part in parts for weight in part.state_dict().values()])
    )


def tensor_hash(values: Tensor) -> str:
    """Twelve hexadecimal digits that change with any value.

    >>> tensor_hash(torch.zeros(2)) == tensor_hash(torch.ones(2))
    False
    """
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()[:12]


def text_hash(text: str) -> str:
    """Twelve hexadecimal digits that change with any character.

    >>> text_hash("a") == text_hash("b")
    False
    """
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sample_padded(pipeline, layouts, styles, indices, config: SamplingConfig, seed: int) -> UInt8[Tensor, "n 3 h w"]:
    """A micro-batch, filled up to its full size: rounding depends on the batch shape, and so would the bytes."""
    n, missing = len(layouts), config.micro_batch - len(layouts)
    layouts = torch.cat([layouts, layouts[-1:].repeat(missing, 1, 1)])
    styles = torch.cat([styles, styles[-1:].repeat(missing, 1)])
    generators = noise_generators(seed, [*indices, *range(indices[-1] + 1, indices[-1] + 1 + missing)])
    return pipeline(layouts, styles, generators, config.n_steps, config.guidance_scale, output_type="pt").images[:n]
