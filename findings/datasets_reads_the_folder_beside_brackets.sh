#!/usr/bin/env bash
# datasets 5.2.0: a local folder whose name holds brackets is taken for a pattern, and another folder is read.
#
# Two folders of tables lie side by side: "[ab]", which is asked for, and "a", which the pattern matches. load_dataset
# sees that the folder "[ab]" exists, looks for its files by a glob that begins with its name, and hands out the rows of
# "a": no error, no warning. Where no folder matches, the folder is called empty.
# What a reader should do: name the files by data_files, escaped (glob.escape), or refuse such a folder.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$place"
HF_HUB_OFFLINE=1 HF_HOME="$place/home" "$place/venv/bin/python" - <<'PYTHON'
import glob

import datasets

datasets.disable_progress_bars()
for folder in ("[ab]", "a"):
    datasets.Dataset.from_dict({"patient": [f"of the folder {folder}"]}).to_parquet(f"tables/{folder}/train.parquet")

by_folder = datasets.load_dataset("tables/[ab]", split="train")["patient"][:]
files = {"train": glob.escape("tables/[ab]/train.parquet")}
by_file = datasets.load_dataset("parquet", data_files=files, split="train")["patient"][:]
print(f"datasets {datasets.__version__}: tables/[ab] gives {by_folder}, its file by an escaped name {by_file}")
assert by_file == ["of the folder [ab]"]
assert by_folder == ["of the folder a"], "the behaviour changed"
PYTHON
