"""The data card of tables that were made from public files; its text is ``source_card.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet
from huggingface_hub import DatasetCard, DatasetCardData

from sedm.data.archives.download import RemoteFile, checksum
from sedm.runtime.files import replacing

TEMPLATE = Path(__file__).with_suffix(".md")


def write_card(
    folder: str | Path,
    *,
    about: str,
    tables: Mapping[str, Path],
    group: str,
    notes: Sequence[str],
    licence: str = "other",
    sources: Sequence[Path] = (),
    published: Sequence[RemoteFile] = (),
) -> Path:
    """Write ``README.md`` in ``folder``: whose data these are, what they were made from, and what they hold.

    Args:
        about: title, licence and citation, in Markdown.
        tables: parquet file of each split.
        group: the column whose distinct values are counted.
        notes: one line each, about how the tables were made.
        licence: as the Hugging Face Hub abbreviates it.
        sources: files they were made from; their md5 sums are compared with those of ``published``.

    >>> import tempfile
    >>> from sedm.data.patch_table import from_arrays, save_patches
    >>> import numpy as np
    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_patches(from_arrays(pixels, pixels[..., 0], ["a"]), Path(folder) / "train.parquet")
    ...     card = write_card(folder, about="# Squares", tables={"train": path}, group="group", notes=["drawn"])
    ...     print(card.read_text().split("# Squares")[1].split(" | sha256:")[0].strip())
    ## Tables
    <BLANKLINE>
    | file | images | distinct group | checksum |
    |---|---|---|---|
    | train.parquet | 1 | 1
    """
    published_checksums = {file.name: file.checksum for file in published}
    splits = [{"split": split, "path": path.name} for split, path in tables.items()]
    card = DatasetCard.from_template(
        DatasetCardData(license=licence, configs=[{"config_name": "default", "data_files": splits}]),
        template_path=str(TEMPLATE),
        about=about.strip(),
        group=group,
        tables=[_describe_table(path, group) for path in tables.values()],
        sources=[_describe_source(path, published_checksums.get(path.name)) for path in sources],
        notes=notes,
    )
    path = Path(folder) / "README.md"
    with replacing(path) as temporary:
        temporary.write_text(f"{card}\n", encoding="utf-8")
    return path


def _describe_table(path: Path, group: str) -> dict[str, object]:
    groups = pyarrow.parquet.read_table(path, columns=[group])[group].to_pylist()
    return {
        "name": path.name,
        "n_images": len(groups),
        "n_groups": len(set(groups)),
        "checksum": checksum(path, "sha256"),
    }


def _describe_source(path: Path, published: str | None) -> dict[str, object]:
    actual = checksum(path)
    verdict = "unknown" if published is None else "yes" if actual == published else "**no**"
    return {"name": path.name, "size": path.stat().st_size, "checksum": actual, "verdict": verdict}
