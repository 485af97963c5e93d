"""The dataset card of a synthetic table, whose text is ``dataset_card.md``, and the way of both to a hub."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from sedm.config.study import Study
from sedm.data.patch_table import find_splits
from sedm.generation.shards import CLAIM, SPLIT
from sedm.runtime.files import replacing

CARD = "README.md"
TEMPLATE = Path(__file__).with_suffix(".md")
COLUMNS = {
    "image": "the generated picture, RGB",
    "mask": "the layout it was made for: class indices",
    "mask_source": '"generated": nobody annotated these masks',
    "group": "the group that lent its style, that of the largest weight where several did",
    "index": "number of the image; (seed, index) decides its noise, layout and style",
    "layout_id": "which layout",
    "style_groups": "all groups that lent their style",
    "style_images": "the images that did",
    "weights": "the share of each of them in the style, sum 1; below 0 where it is led away from them",
    "pairing": "how the layout found its style",
    "seed": "of the run",
    "guidance_scale": "1 = no guidance",
    "n_steps": "solver steps",
    "model": "hash of the model's weights",
}


def write_card(folder: str | Path, study: Study | None = None) -> Path:
    """Write the dataset card of a finished table: what it is, what made it, whose data it comes from, how to load it.

    Args:
        study: for the attribution; None where there is none.
    """
    path = Path(folder) / CARD
    source_data = "not stated"
    if study is not None:
        source_data = "drawn by sedm itself" if study.embedded else study.attribution or source_data
    shards = [{"split": SPLIT, "path": f"{SPLIT}-*.parquet"}]
    card = DatasetCard.from_template(
        DatasetCardData(
            pretty_name=f"Synthetic patches of the study {study.name}" if study else "Synthetic patches",
            tags=["synthetic", "segmentation", "style-extracting-diffusion-model"],
            configs=[{"config_name": "default", "data_files": shards}],
        ),
        template_path=str(TEMPLATE),
        settings=json.loads((Path(folder) / CLAIM).read_text()),
        source_data=source_data,
        split=SPLIT,
        columns=COLUMNS,
    )
    with replacing(path) as temporary:
        temporary.write_text(f"{card}\n", encoding="utf-8")
    return path


def push_to_hub(folder: str | Path, repo_id: str, private: bool = True, api=None) -> str:
    """Push this table and its card to the data set ``repo_id`` of the Hugging Face Hub; return its address.

    Nothing in sedm calls this unasked. Private unless told otherwise: layouts may be real masks.

    Args:
        folder: of a finished table.
        repo_id: such as ``"my-group/synthetic-tissue"``.
        api: a ``huggingface_hub.HfApi``; by default one with the token of this computer.

    Raises:
        ValueError: an unfinished table, or a data set that exists already and is public where a private one is meant.
        OSError: the Hub cannot be reached or refuses.
    """
    folder = Path(folder)
    if SPLIT not in find_splits(folder) or not (folder / CARD).exists():
        raise ValueError(f"{folder}: no finished synthetic table; generate it first, the card is written last")
    api = api or HfApi()
    address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    if private and not api.repo_info(repo_id, repo_type="dataset").private:
        raise ValueError(f"{repo_id}: exists already and is public; make it private, choose another, or push publicly")
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        repo_type="dataset",
        allow_patterns=[f"{SPLIT}-*.parquet", CLAIM, CARD],
        commit_message="Synthetic patches",
    )
    return str(address)
