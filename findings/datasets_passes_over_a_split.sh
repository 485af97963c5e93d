#!/usr/bin/env bash
# datasets 5.2.0: of a folder of parquet files only those with usual names are read, and "val" becomes "validation".
#
# A folder holds train, val and shifted. From the folder there are "train" and "validation": the split "val" is not
# known, and shifted.parquet is passed over without a word; load_dataset(folder, split="shifted") says that there is no
# such split, though the file lies there.
# What a reader should do: name the files of each split by data_files.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$place"
HF_HUB_OFFLINE=1 HF_HOME="$place/home" "$place/venv/bin/python" - <<'PYTHON'
import datasets

datasets.disable_progress_bars()
for split in ("train", "val", "shifted"):
    datasets.Dataset.from_dict({"patient": [split]}).to_parquet(f"tables/{split}.parquet")

table = datasets.load_dataset("tables")
print(f"datasets {datasets.__version__}: a folder of train, val and shifted is read as {', '.join(table)}")
assert list(table) == ["train", "validation"], "the behaviour changed"
assert table["validation"]["patient"][:] == ["val"]
try:
    datasets.load_dataset("tables", split="shifted")
except ValueError as error:
    print(f"split='shifted': {error}")
else:
    raise AssertionError("the behaviour changed")
PYTHON
