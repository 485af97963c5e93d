"""Studies: each a data set with its question, described by a TOML file.

The built-in ones lie in ``studies/``; a file ``study.toml`` beside images of your own makes another::

    title = "Glands of our clinic"
    question = "segmentation"              # or "styles": notebook 01 alone
    group = "patient"                      # what shares a style, in words

    [classes]                              # in the order of class indices: values or colours in the masks
    stroma = 0
    gland = 255

    [data]                                 # how images and masks lie: see `sedm.data.source_format.SourceFormat`
    images = "images"
    masks = "masks"

    [splits]                               # see `sedm.data.splits.Splits`
    test_fraction = 0.4

    [presets.quick]                        # what a preset is to do differently
    training.n_steps = 2000

Two laboratories make a study of their own, where the annotated groups are those of the one, and styles and test groups
those of the other; its file needs nothing more (`sedm.data.study_data.pair_studies`)::

    title = "Masks of our clinic for the slides of another"
    [laboratories]
    annotated = "ours/study.toml"          # from this file on, or the name of a study that is drawn
    target = "theirs/study.toml"
    swapped = false                        # their test groups lend, and their training groups are tested
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sedm.config.checks import known_name

FILE = "study.toml"
NOT_WRITTEN = ("class_values", "laboratories", "swapped", "file")  # fields that are no keys of a file
RESULTS = "sedm-results"  # the folder beside the file for what comes of the study
QUESTIONS = ("segmentation", "styles")
BUILT_IN = ("tissue", "flowers", "ebhi", "pets", "flowers102", "catch")


@dataclass(frozen=True)
class Study:
    """A data set with its question."""

    name: str  # of its folders of runs and figures
    classes: tuple[str, ...]  # names of the class indices 0…K−1; class 0 is the background
    class_values: Mapping[str, Any] | None = None  # class → its values or colours in mask files; None = its index
    title: str = ""
    question: str = "segmentation"  # do synthetic images help? Or "styles": can they be borrowed?
    group: str = "group"  # what a group is called in words
    group_column: str = "group"  # what it is called in a table
    image_class: str = ""  # the column with a class of the whole image, where there is one
    shared_groups: bool = False  # may a group of the training split also be in the test split?
    upright: bool = False  # have images an upper end, so that they may be mirrored, but not turned?
    stained: bool = True  # by haematoxylin and eosin, which can be told apart
    embedded: bool = False  # drawn by sedm itself, so no data are needed
    redistributable: bool = False  # may a committed figure show its real images and masks?
    cite: str = ""
    licence: str = ""
    fit: str = ""  # how images that are no squares become some: "crop", "pad", "squeeze" or "tile"
    data: Mapping[str, Any] = field(default_factory=dict)  # how images and masks lie; {} = tables, one a split
    splits: Mapping[str, Any] = field(default_factory=dict)  # how groups are split; {} = as the tables are
    presets: Mapping[str, Mapping] = field(default_factory=dict)  # preset → section → setting → value
    laboratories: tuple[Study, Study] | None = None  # the annotated one, and the target; None = one laboratory
    swapped: bool = False  # do training and test groups of the target change places?
    file: Path | None = None  # that describes it; None = built in

    def __post_init__(self):
        known_name("question", self.question, QUESTIONS)

    @property
    def attribution(self) -> str:
        """Whose data they are, and on what terms; printed with the study's figures."""
        return ", ".join(part for part in (self.cite, self.licence) if part)

    @property
    def groups(self) -> str:
        """What several groups are called in words.

        >>> [Study("mine", ("glass", "gland"), group=one).groups for one in ("patient", "species", "biopsy", "box")]
        ['patients', 'species', 'biopsies', 'boxes']
        """
        if self.group.endswith("ies"):
            return self.group
        if self.group.endswith(("s", "x", "ch", "sh")):
            return f"{self.group}es"
        return re.sub("([^aeiou])y$", r"\1ie", self.group) + "s"

    def __str__(self):
        """Name the study as a command takes it."""
        return self.name if self.file is None else str(self.file)


def read_study(path: str | Path, text: str | None = None, *, alone: bool = False) -> Study:
    """Read a study from a TOML file, or from ``study.toml`` in a folder.

    It is called as its key ``name`` says, else after the folder that the file lies in.

    Args:
        text: what a file that is still to be written will hold.
        alone: refuse a file that pairs two laboratories.

    Raises:
        ValueError: no such file, no TOML, an unknown key, a value of another type, or no classes; with file and key.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory(prefix="glands-") as folder:
    ...     _ = Path(folder, "study.toml").write_text('name = "glands"\\n[classes]\\nstroma = 0\\ngland = [1, 2]')
    ...     study = read_study(folder)
    >>> study.name, study.classes, study.class_values["gland"]
    ('glands', ('stroma', 'gland'), [1, 2])
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if text is None and not path.is_file():
        raise ValueError(f"{path}: no such file; sedm check --write makes one for a folder of images")
    if path.suffix != ".toml":
        raise ValueError(f"{path}: give the {FILE} that describes it; sedm check --write makes one beside it")
    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8") if text is None else text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no TOML ({error})") from error
    built_in = path.parent == FOLDER
    folder = path.absolute().parent
    folder = folder.resolve() if folder.name == ".." else folder  # which is no name
    keys.setdefault("name", path.stem if built_in else _as_name(folder.name))
    if alone and "laboratories" in keys:
        # as one of two, its lenders would count as annotated; and a file could name itself
        raise ValueError(f"{path}: pairs two laboratories itself; name a study of one")
    pair = _pair_laboratories(keys, path) if "laboratories" in keys else {}
    _check_keys(keys, path)
    if not built_in and keys["name"] in BUILT_IN:
        raise ValueError(f"{path}, key 'name': {keys['name']!r} is built in; choose another")
    if isinstance(keys["classes"], Mapping):
        keys["class_values"] = keys["classes"]
    keys["classes"] = tuple(keys["classes"])
    return Study(**keys, **pair, file=None if built_in else path.absolute())


def find_study(study: str | Path | Study) -> Study:
    """Find a study by its name, or by its file or the folder of that.

    Raises:
        ValueError: neither a known name nor a file; see `read_study`.

    >>> find_study("ebhi").attribution
    'EBHI-SEG, Shi et al. 2023, doi:10.3389/fmed.2023.1114673, CC BY 4.0'
    >>> find_study("tisue")
    Traceback (most recent call last):
    ...
    ValueError: study='tisue'; choose one of tissue, flowers, ebhi, pets, flowers102, catch (did you mean 'tissue'?) \
or give the path of a study.toml
    """
    if isinstance(study, Study):
        return study
    if study in list(STUDIES):  # in a dictionary, a list could not be looked up
        return STUDIES[study]
    if isinstance(study, Path) or "/" in str(study) or str(study).endswith(".toml") or Path(str(study)).is_dir():
        return read_study(study)
    try:
        known_name("study", study, STUDIES)
    except ValueError as error:
        raise ValueError(f"{error} or give the path of a {FILE}") from None


def check_segmentation(study: Study) -> None:
    """Refuse a study that does not ask for segmentation, or has nothing to segment.

    >>> check_segmentation(STUDIES["flowers"])
    Traceback (most recent call last):
    ...
    ValueError: the study 'flowers' asks for styles, not for segmentation
    """
    if study.question != "segmentation":
        raise ValueError(f"the study {study.name!r} asks for {study.question}, not for segmentation")
    if len(study.classes) < 2:
        raise ValueError(f"the study {study.name!r} has the class {study.classes[0]!r} alone; name a background, too")


def _as_name(folder: str) -> str:
    """Make a name for folders of what a folder is called.

    >>> _as_name("My glands (2026)")
    'my_glands_2026'
    """
    return re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")


def _check_keys(keys: Mapping[str, Any], path: Path) -> None:
    types = {one.name: str(one.type).split("[")[0].split(" ")[0] for one in fields(Study)}
    types = {name: kind for name, kind in types.items() if name not in NOT_WRITTEN}
    kinds = {"str": (str, "a text"), "bool": (bool, "true or false"), "Mapping": (Mapping, "a table")}
    for key, value in keys.items():
        try:
            kind = types[known_name("key", key, types)]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if kind in kinds and not isinstance(value, kinds[kind][0]):
            raise ValueError(f"{path}, key {key!r}: {value!r}; give {kinds[kind][1]}")
    if not re.fullmatch("[a-z0-9][a-z0-9_-]*", keys["name"]):
        raise ValueError(f"{path}, key 'name': {keys['name']!r}; give small letters, digits, - and _")
    classes = keys.get("classes")
    if not isinstance(classes, Mapping | list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path}, key 'classes': {classes!r}; name the classes, and their values in the masks")
    if len(set(classes)) < len(classes):
        raise ValueError(f"{path}, key 'classes': {classes!r}; name each class once")
    if keys.get("question", QUESTIONS[0]) not in QUESTIONS:
        raise ValueError(f"{path}, key 'question': {keys['question']!r}; choose one of {', '.join(QUESTIONS)}")
    for preset, sections in keys.get("presets", {}).items():
        if not isinstance(sections, Mapping) or not all(isinstance(one, Mapping) for one in sections.values()):
            raise ValueError(f"{path}, key 'presets.{preset}': {sections!r}; give settings, as training.n_steps = 2000")


def _pair_laboratories(keys: dict[str, Any], path: Path) -> dict[str, Any]:
    """Take the key ``laboratories`` out and return the two studies; take from the annotated one what is not said."""
    given, where = keys.pop("laboratories"), f"{path}, key 'laboratories'"
    names = ("annotated", "target", "swapped")
    if not isinstance(given, Mapping) or not all(isinstance(given.get(name), str) for name in names[:2]):
        raise ValueError(f"{where}: {given!r}; give the studies 'annotated' and 'target'")
    try:
        for key in given:
            known_name("key", key, names)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for key in ("classes", "data", "splits"):
        if key in keys:
            raise ValueError(f"{path}, key {key!r}: the files of the laboratories say that; leave it out")
    pair = []
    for name in names[:2]:
        file = path.absolute().parent / given[name]
        study = read_study(file, alone=True) if file.exists() else find_study(given[name])
        if study.file is None and not study.embedded:
            raise ValueError(f"{where}: {name} = {given[name]!r} has no data here; name a study.toml that says where")
        pair.append(study)
    annotated, target = pair
    for name in ("group", "group_column", "image_class", "upright", "stained", "classes"):
        keys.setdefault(name, getattr(annotated, name))
    keys["classes"] = list(keys["classes"])
    keys.setdefault("redistributable", annotated.redistributable and target.redistributable)
    keys.setdefault("cite", "; ".join(filter(None, dict.fromkeys(one.attribution for one in pair))))
    swapped = given.get("swapped", False)
    if not isinstance(swapped, bool):
        raise ValueError(f"{where}: swapped = {swapped!r}; give true or false")
    return {"laboratories": (annotated, target), "swapped": swapped}


FOLDER = Path(__file__).with_name("studies")
STUDIES = {name: read_study(FOLDER / f"{name}.toml") for name in BUILT_IN}
"""The built-in studies by name."""
