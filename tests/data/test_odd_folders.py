"""Tables in folders whose names mean something to ``datasets`` or pyarrow: read as they are, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sedm.data.hub import load_hub_dataset
from sedm.data.patch_table import PatchTableError, from_arrays, load_patches, save_patches


def table_of(group):
    return from_arrays(np.zeros((1, 8, 8, 3), np.uint8), [None], [group])


@pytest.mark.parametrize("folder", ["[ab]", "a*b", "a?b", "**", "a:b", "100%", "{c}"])
def test_a_table_is_read_from_its_own_folder_and_from_no_other(tmp_path, monkeypatch, folder):
    """As a pattern, ``[ab]`` is the folder ``a``; at the beginning of a path, ``a:`` is a protocol."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "aab", "axb"):
        save_patches(table_of("of another folder"), Path(name, "train.parquet"))
    path = save_patches(table_of("of this folder"), Path(folder, "train.parquet"))
    assert path.is_file()
    tables = (load_patches(path), load_patches(path, streaming=True), load_hub_dataset(path))
    for table in (*tables, load_patches(folder), load_hub_dataset(folder)):
        assert [row["group"] for row in table] == ["of this folder"]


@pytest.mark.parametrize("folder", ["$HOME", "a::b"])
def test_a_folder_that_cannot_be_read_as_it_is_called_is_refused(tmp_path, folder):
    path = save_patches(table_of("a"), tmp_path / folder / "train.parquet")
    for load in (load_patches, load_hub_dataset):
        for source in (path, path.parent):
            with pytest.raises(PatchTableError, match=r"in this one; rename the folder$"):
                load(source)


def test_a_folder_whose_pictures_would_be_those_of_another_is_refused(tmp_path):
    for folder in ("[ab]", "a"):
        path = tmp_path / folder / "train" / "case-1" / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(PatchTableError, match=r"\[ab\]: datasets takes this name for a pattern; rename the folder$"):
        load_hub_dataset(tmp_path / "[ab]", mask_column=None, group_column="label")
