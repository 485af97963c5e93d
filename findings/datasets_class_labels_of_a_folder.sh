#!/usr/bin/env bash
# datasets 5.2.0: class labels of a folder of parquet files take the names of the folder's first file.
#
# Two splits with a ClassLabel column, whose files number their own names from 0: train holds "p1" and "p2", test "p3"
# and "p4". Each file alone is read right. From the folder, the rows of test come back as "p1" and "p2": no error, no
# warning, and a patient of the test split carries the name of one of the training split.
# What a reader should do: compare the names stored in each file before reading them together.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$place"
HF_HUB_OFFLINE=1 HF_HOME="$place/home" "$place/venv/bin/python" - <<'PYTHON'
import datasets

datasets.disable_progress_bars()
for split, names in (("train", ["p1", "p2"]), ("test", ["p3", "p4"])):
    features = datasets.Features({"patient": datasets.ClassLabel(names=names)})
    datasets.Dataset.from_dict({"patient": [0, 1]}, features=features).to_parquet(f"tables/{split}.parquet")


def names_of(table):
    feature = table.features["patient"]
    return [feature.int2str(value) for value in table["patient"]]


alone = names_of(datasets.load_dataset("parquet", data_files="tables/test.parquet", split="train"))
folder = names_of(datasets.load_dataset("tables", split="test"))
print(f"datasets {datasets.__version__}: test.parquet alone {alone}, from its folder {folder}")
assert alone == ["p3", "p4"]
assert folder == ["p1", "p2"], "the behaviour changed"
PYTHON
