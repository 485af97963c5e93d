"""Where the images of a study's file lie, how they are stored, and how their groups are split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import datasets

from sedm.config import Study, known_name
from sedm.data.conversion import with_named_groups
from sedm.data.errors import PatchTableError
from sedm.data.reduce import FITS
from sedm.data.source_format import SourceFormat
from sedm.data.sources import list_splits, load_table, open_table
from sedm.data.splits import SPLIT_WORDS, Splits, check_splits, split_annotated


@dataclass(frozen=True)
class StudySource:
    """The images of a study, as its file describes them.

    Args:
        study: with a file; its keys ``data`` and ``splits`` are those of `SourceFormat` and `Splits`, and
            ``data.source``, the folder or table, from the folder of the file on; left out, that folder itself.

    Raises:
        ValueError: an unknown key, or a value that makes no sense, with the file and the key.

    >>> import tempfile
    >>> from sedm.config import read_study
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = 'name = "glands"\\nclasses = ["glass", "gland"]\\n[data]\\nmask_threshold = 127'
    ...     _ = Path(folder, "study.toml").write_text(text)
    ...     StudySource(read_study(folder)).format.mask_threshold
    127
    """

    study: Study

    def __post_init__(self):
        if self.study.laboratories is not None:
            files = " and ".join(str(one) for one in self.study.laboratories)
            raise ValueError(f"{self.study} pairs two studies and has no images of its own; take {files}")
        source = self.study.data.get("source", "")
        if not isinstance(source, str):
            raise ValueError(f"{self.study}, key 'data': source={source!r}; give the name of a folder or table as text")
        _ = self.format, self.splits
        if self.study.fit and self.study.fit not in FITS:
            raise ValueError(f"{self.study}, key 'fit': {self.study.fit!r}; choose one of {', '.join(FITS)}")

    @property
    def path(self) -> Path:
        """The folder or table of the images."""
        return self.study.file.parent / self.study.data.get("source", "")

    @property
    def format(self) -> SourceFormat:
        """How the pictures are stored."""
        keys = {name: value for name, value in self.study.data.items() if name != "source"}
        keys.setdefault("group_column", self.study.group_column)
        if self.study.class_values is not None:
            keys["classes"] = self.study.class_values
        return _made(SourceFormat, keys, f"{self.study}, key 'data'")

    @property
    def splits(self) -> Splits:
        """How the groups are split, where the source has no splits of its own."""
        return _made(Splits, self.study.splits, f"{self.study}, key 'splits'")

    def check_splits(self) -> None:
        """Refuse groups that cannot be split, without opening a picture.

        Raises:
            PatchTableError: as `load`.
        """
        self._split(lambda split: with_named_groups(open_table(self.path, self.format, split), self.path, self.format))

    def load(self) -> dict[str, datasets.Dataset]:
        """Load the patch table of each split.

        Raises:
            PatchTableError: the first fault of files, names, groups or splits.
        """
        return self._split(lambda split: load_table(self.path, self.format, split))

    def _split(self, read: Callable[[str], datasets.Dataset]) -> dict[str, datasets.Dataset]:
        """Read the table of each split, or the one table and split it."""
        names = list_splits(self.path, self.format)
        if not names:
            return split_annotated(read(""), self.splits, str(self.path))
        if self.study.splits:
            raise PatchTableError(
                f"{self.study}, key 'splits': {self.path} has the splits {', '.join(names)} already; leave the key out"
            )
        tables = {}
        for name in names:
            split = SPLIT_WORDS.get(name.lower(), name)
            if split in tables:
                raise PatchTableError(f"{self.path}: two splits {split!r}, one of them called {name!r}; join them")
            tables[split] = read(name)
        for split in ("train", "test"):
            if split not in tables:
                raise PatchTableError(f"{self.path}: no split {split!r}; it has {', '.join(names)}")
        check_splits({} if self.study.shared_groups else tables)
        return tables


def _made(kind: type, keys: dict, where: str):
    """Make settings of the keys of a file."""
    names = [one.name for one in fields(kind)]
    try:
        for key in keys:
            known_name("key", key, names)
        return kind(**keys)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
