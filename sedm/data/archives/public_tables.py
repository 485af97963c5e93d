"""Tables of a public data set: written to disk row by row, and saved beside a card that says whose data they are.

The text of the card is ``public_tables.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets.arrow_writer import ArrowWriter
from huggingface_hub import DatasetCard, DatasetCardData

from sedm.data.archives.download import RemoteFile, checksum
from sedm.data.patch_table import save_patches
from sedm.runtime.files import replacing

SPLITS = ("train", "validation", "test")
TEMPLATE = Path(__file__).with_suffix(".md")
ROWS_AT_ONCE = 100  # in memory


def spool(rows: Iterable[dict], features: datasets.Features, path: str | Path) -> datasets.Dataset:
    """Write rows to a file as they come, and return the table of them, which stays on disk.

    >>> import tempfile
    >>> features = datasets.Features({"group": datasets.Value("string")})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     spool(({"group": name} for name in "ab"), features, f"{folder}/rows.arrow")["group"][:]
    ['a', 'b']
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with ArrowWriter(features=features, path=str(path), writer_batch_size=ROWS_AT_ONCE) as writer:
        for row in rows:
            writer.write(features.encode_example(row))
        writer.finalize()
    return datasets.Dataset.from_file(str(path))


@dataclass(frozen=True)
class PublicTables:
    """The patch tables of a public data set, and what their card says.

    Attributes:
        tables: by split.
        about: title, licence and citation, in Markdown.
        notes: one line each, about how the tables were made.
        group: the column whose distinct values are counted.
        licence: as the Hugging Face Hub abbreviates it.
        sources: files the tables were made from; their md5 sums are compared with those of ``published``.
    """

    tables: Mapping[str, datasets.Dataset]
    about: str
    notes: Sequence[str]
    group: str = "group"
    licence: str = "other"
    sources: Sequence[Path] = ()
    published: Sequence[RemoteFile] = ()

    def save(self, folder: str | Path) -> dict[str, Path]:
        """Write a parquet file for each split, and the card ``README.md``.

        Returns:
            The parquet files by split.

        >>> import tempfile
        >>> from sedm.data.patch_table import from_arrays
        >>> import numpy as np
        >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
        >>> tables = {"train": from_arrays(pixels, pixels[..., 0], ["a"])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = PublicTables(tables, about="# Squares", notes=["drawn"]).save(folder)
        ...     card = (Path(folder) / "README.md").read_text()
        >>> print(card.split("# Squares")[1].split(" | sha256:")[0].strip())
        ## Tables
        <BLANKLINE>
        | file | images | distinct group | checksum |
        |---|---|---|---|
        | train.parquet | 1 | 1
        """
        folder = Path(folder)
        paths = {split: save_patches(table, folder / f"{split}.parquet") for split, table in self.tables.items()}
        files = [{"split": split, "path": path.name} for split, path in paths.items()]
        card = DatasetCard.from_template(
            DatasetCardData(license=self.licence, configs=[{"config_name": "default", "data_files": files}]),
            template_path=str(TEMPLATE),
            about=self.about.strip(),
            group=self.group,
            tables=[self._describe_table(split, path) for split, path in paths.items()],
            sources=[self._describe_source(path) for path in self.sources],
            notes=self.notes,
        )
        with replacing(folder / "README.md") as temporary:
            temporary.write_text(f"{card}\n", encoding="utf-8")
        return paths

    def _describe_table(self, split: str, path: Path) -> dict[str, object]:
        groups = self.tables[split][self.group]
        return {
            "name": path.name,
            "n_images": len(groups),
            "n_groups": len(set(groups)),
            "checksum": checksum(path, "sha256"),
        }

    def _describe_source(self, path: Path) -> dict[str, object]:
        published = {file.name: file.checksum for file in self.published}.get(path.name)
        actual = checksum(path)
        verdict = "unknown" if published is None else "yes" if actual == published else "**no**"
        return {"name": path.name, "size": path.stat().st_size, "checksum": actual, "verdict": verdict}
