"""The slides of CATCH: what the data set holds, whose slide is whose, and which split and annotations each gets.

A patient may have several slides (``MCT_02_1.svs`` and ``MCT_02_2.svs``): the 350 slides come from 282 patients. So
the group of a patch is its patient, and patients, never single slides, are split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from sedm.config import known_name
from sedm.data.folders.spreadsheets import read_spreadsheet
from sedm.data.patch_table import PatchTableError
from sedm.data.slides.slide_settings import SlideSettings
from sedm.runtime.seeds import seeded_generator

CITATION = (
    "Wilm, F., Fragoso, M., Marzahl, C., Qiu, J., Puget, C., Diehl, L., Bertram, C. A., Klopfleisch, R., Maier, A., "
    "Breininger, K., Aubreville, M.: Pan-tumor CAnine cuTaneous Cancer Histology (CATCH) dataset. Scientific Data 9, "
    "588 (2022). doi:10.1038/s41597-022-01692-w"
)
SOURCE = (
    "The Cancer Imaging Archive, doi:10.7937/TCIA.2M93-FX66, https://www.cancerimagingarchive.net/collection/catch/"
)
LICENCE = (
    "CC BY 4.0 according to the collection's page on TCIA; the header of the authors' JSON names CC BY-NC-ND 2.0 "
    "instead, so ask the authors before handing images on"
)
# CC BY 4.0: as quoted from the collection's page by public loaders of CATCH; CC BY-NC-ND: create_header in
# github.com/DeepMicroscopy/CanineCutaneousTumors, annotation_conversion/sql_to_coco.py.
# No checksum of the files on TCIA could be confirmed, so none is checked; the card records that of the annotations.

ABOUT = f"""# CATCH patches

Patches of slides of canine skin tumours, H&E, cut by sedm.

- Source: {SOURCE}
- Licence: {LICENCE}
- Cite: {CITATION}
"""

MICRONS_PER_PIXEL = 0.2533  # of the finest level, where a file does not say; three levels, each a quarter of the last
# Source: the classes.json of a public copy, huggingface.co/datasets/MedOtter/CATCH; the file's own word goes first.

TUMOURS = {
    "Histiocytoma": "Histiocytoma",
    "MCT": "Mast Cell Tumor",
    "Melanoma": "Melanoma",
    "PNST": "PNST",
    "Plasmacytoma": "Plasmacytoma",
    "SCC": "SCC",
    "Trichoblastoma": "Trichoblastoma",
}
"""Class name of each tumour type by the word that its slides' file names begin with."""

TISSUES = ("Bone", "Cartilage", "Dermis", "Epidermis", "Subcutis", "Inflamm/Necrosis")
# Names and spelling: create_header of sql_to_coco.py; there their numbers are 1 to 6, those of the tumours 7 to 13.

CLASS_SETS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "tumour": (("other", "tumour"), dict.fromkeys(TISSUES, 0) | dict.fromkeys(TUMOURS.values(), 1)),
    "type": (
        ("other", *TUMOURS.values()),
        dict.fromkeys(TISSUES, 0) | {name: 1 + row for row, name in enumerate(TUMOURS.values())},
    ),
    "tissue": (
        ("background", *TISSUES, "tumour"),
        {name: 1 + row for row, name in enumerate(TISSUES)} | dict.fromkeys(TUMOURS.values(), 1 + len(TISSUES)),
    ),
}
"""Names of the mask values, and the mask value of each class of the annotations.

``tumour``: any tumour against all else. ``type``: the seven tumours against all else, as in Öttl et al. (ECCV 2024).
``tissue``: the six tissues and any tumour, on background.
"""

SPLIT_WORDS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Sampling(SlideSettings):
    """Which patches are cut and how; the defaults follow the recipe of Öttl et al. where it is known."""

    classes: str = "tumour"  # a name of CLASS_SETS
    annotated_per_type: int | None = 6  # training slides of each tumour type with masks; None = all
    test_fraction: float = 0.2  # of the patients of each tumour type
    validation_fraction: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        known_name("classes", self.classes, CLASS_SETS)
        for name in ("test_fraction", "validation_fraction"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}; it must be greater than 0")
        if self.test_fraction + self.validation_fraction >= 1:
            raise ValueError(
                f"test_fraction={self.test_fraction}, validation_fraction={self.validation_fraction}; "
                "together they must stay below 1"
            )
        if self.annotated_per_type is not None and self.annotated_per_type < 1:
            raise ValueError(f"annotated_per_type={self.annotated_per_type}; give 1 or more, or None for all")

    @property
    def class_index(self) -> dict[str, int]:
        """The mask value of each class of the annotations."""
        return CLASS_SETS[self.classes][1]


class SlideName(NamedTuple):
    """What the file name of a slide says."""

    tumour_type: str  # a key of TUMOURS
    patient: str  # the group


def parse_slide_name(name: str) -> SlideName:
    """Read the tumour type and the patient of a slide from its file name ``<type>_<patient>_<slide>.svs``.

    Raises:
        PatchTableError: any other name.

    >>> parse_slide_name("MCT_02_1.svs")
    SlideName(tumour_type='MCT', patient='MCT_02')
    """
    match = re.fullmatch(rf"(({'|'.join(TUMOURS)})_\d+)_\d+\.\w+", name)
    if match is None:
        raise PatchTableError(
            f"slide {name!r}: not a name of CATCH; expected <type>_<patient>_<slide>.svs with a type of "
            f"{', '.join(TUMOURS)}"
        )
    return SlideName(match[2], match[1])


def read_split_file(path: str | Path) -> dict[str, str]:
    """Read the split of each slide: ``train``, ``validation`` or ``test``.

    It is the authors' ``datasets.csv`` (columns ``Slide;Dataset;Scanner``, words train, val, test) or any spreadsheet
    with the columns ``Slide`` and ``Dataset``.

    Raises:
        PatchTableError: as ``read_spreadsheet``; other words, or a patient in two splits.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "datasets.csv"
    ...     _ = path.write_text("Slide;Dataset;Scanner\\nMCT_01_1.svs;val;AT2\\n")
    ...     read_split_file(path)
    {'MCT_01_1.svs': 'validation'}
    """
    splits, patients = {}, {}
    for line, row in read_spreadsheet(path, columns=("Slide", "Dataset")).items():
        if row["Dataset"] not in SPLIT_WORDS:
            raise PatchTableError(
                f"{path}, line {line}: Dataset is {row['Dataset']!r}; expected {', '.join(SPLIT_WORDS)}"
            )
        split = splits[row["Slide"]] = SPLIT_WORDS[row["Dataset"]]
        patient = parse_slide_name(row["Slide"]).patient
        if patients.setdefault(patient, split) != split:
            raise PatchTableError(f"{path}, line {line}: patient {patient} is in {patients[patient]} and in {split}")
    return splits


def split_slides(slides: Sequence[str], annotated: Sequence[str], sampling: Sampling) -> dict[str, str]:
    """Split the slides: patients at random, of each tumour type the same share.

    A patient with an unannotated slide goes to training, where styles need no annotation.

    Raises:
        PatchTableError: a tumour type with fewer than three annotated patients.

    >>> slides = [f"{kind}_{patient:02}_1.svs" for kind in ("MCT", "SCC") for patient in range(10)]
    >>> split = split_slides(slides, slides, Sampling())
    >>> [list(split.values()).count(name) for name in ("train", "validation", "test")]
    [14, 2, 4]
    """
    bare = {parse_slide_name(name).patient for name in set(slides) - set(annotated)}
    splits = dict.fromkeys((parse_slide_name(name).patient for name in slides), "train")
    for tumour_type, patients in _patients_by_type(slides, sampling.seed, "split").items():
        able = [patient for patient in patients if patient not in bare]
        n_test, n_validation = (
            max(round(share * len(patients)), 1) for share in (sampling.test_fraction, sampling.validation_fraction)
        )
        if len(able) <= n_test + n_validation:
            raise PatchTableError(
                f"{tumour_type}: {len(able)} annotated patients cannot give {n_test} for test, {n_validation} for "
                "validation and some for training; get more slides or give a split_file"
            )
        splits |= dict.fromkeys(able[:n_test], "test")
        splits |= dict.fromkeys(able[n_test : n_test + n_validation], "validation")
    return {name: splits[parse_slide_name(name).patient] for name in slides}


def choose_annotated(slides: Sequence[str], n_per_type: int, seed: int) -> list[str]:
    """Choose ``n_per_type`` slides of each tumour type at random, each of another patient.

    The choice is nested: the slides of a smaller count are among those of a larger one, at the same seed.

    Raises:
        PatchTableError: a tumour type with fewer patients.

    >>> slides = [f"SCC_{patient:02}_1.svs" for patient in range(10)]
    >>> few, more = (choose_annotated(slides, n, seed=0) for n in (2, 3))
    >>> len(more), set(few) < set(more)
    (3, True)
    """
    chosen = []
    for tumour_type, patients in _patients_by_type(slides, seed, "annotated").items():
        if len(patients) < n_per_type:
            raise PatchTableError(
                f"annotated_per_type={n_per_type}, but {tumour_type} has {len(patients)} annotated patients to train on"
            )
        first = {parse_slide_name(name).patient: name for name in sorted(slides, reverse=True)}
        chosen += [first[patient] for patient in patients[:n_per_type]]
    return chosen


def _patients_by_type(slides: Sequence[str], seed: int, purpose: str) -> dict[str, list[str]]:
    """Shuffle the patients of each tumour type; the order depends on them, the seed and the purpose alone."""
    patients: dict[str, set[str]] = {}
    for name in slides:
        tumour_type, patient = parse_slide_name(name)
        patients.setdefault(tumour_type, set()).add(patient)
    shuffled = {}
    for tumour_type in sorted(patients):
        ordered = sorted(patients[tumour_type])
        order = torch.randperm(len(ordered), generator=seeded_generator(f"{purpose} of {tumour_type}", seed))
        shuffled[tumour_type] = [ordered[row] for row in order.tolist()]
    return shuffled
