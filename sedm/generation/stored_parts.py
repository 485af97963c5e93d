"""Synthetic tables from parts on disk: a model, layouts and styles, as the command ``sedm generate`` names them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import datasets
from accelerate import PartialState

from sedm.config import SamplingConfig, Study, find_study, read_study
from sedm.config.study import FILE
from sedm.data.patch_table import load_patches
from sedm.data.patches import Patches
from sedm.data.study_source import StudySource
from sedm.generation.generate import LONGEST_WAIT, embed_bank, generate_patches
from sedm.generation.pairing import GivenLayouts, Pairing, mean_shares
from sedm.generator.pipeline import SEDMPipeline
from sedm.layouts import EmpiricalPrior, LayoutPrior, load_prior
from sedm.runtime.hardware import pick_device
from sedm.styles.bank import StyleBank


def generate_from_parts(
    model: str | Path,
    layouts: str | Path,
    styles: str | Path,
    config: SamplingConfig,
    seed: int,
    folder: str | Path,
    *,
    study: str = "",
    split: str | None = None,
) -> datasets.Dataset:
    """Generate a synthetic patch table in ``folder``; see `generate_patches`.

    Args:
        model: folder that ``SEDMPipeline.save_pretrained`` wrote.
        layouts: folder of a fitted prior; a patch table, whose masks are used as they are; or the file or folder of a
            study, to whose training masks a prior is fitted.
        styles: a style bank (``.safetensors``), or a patch table or study, whose (training) images are embedded.
        study: its name or file, which says what the columns of patch tables are called; "" where there is none.
        split: of patch tables that have several.

    Raises:
        ValueError: a part that is not there, or parts that do not fit each other.

    >>> generate_from_parts("no/such/model", "layouts", "styles", SamplingConfig(), 0, "out")
    Traceback (most recent call last):
    ...
    ValueError: no/such/model: no such folder; expected one written by save_pretrained of SEDMPipeline
    """
    pipeline = SEDMPipeline.from_pretrained(model)
    pipeline.to(PartialState(cpu=pick_device().type == "cpu", timeout=LONGEST_WAIT).device)
    tables = _Tables(find_study(study) if study else None, split, pipeline)
    given, of_layouts = _read_layouts(Path(layouts), tables)
    bank, facts = _read_styles(Path(styles), tables, config)
    pairing = Pairing(bank, config, of_layouts=of_layouts, **facts)
    return generate_patches(pipeline, given, bank, config, seed, folder, pairing=pairing, study=study)


class _Source(NamedTuple):
    """A patch table that was read."""

    patches: Patches
    ids: list[str]  # of its rows
    image_classes: list[str] | None  # of whole images, where the study has any


class _Tables(NamedTuple):
    """How patch tables are read for a model."""

    study: Study | None
    split: str | None
    pipeline: SEDMPipeline

    def read(self, path: Path) -> _Source:
        """Read one at the size of the model."""
        of_model = self.pipeline.denoiser.config
        if is_study(path):
            source = StudySource(read_study(path))
            study = source.study
            table = source.load()["train"]  # the others are for testing
            options = {"fit": study.fit or None, "name": f"{study.name} train"}
            patches = Patches.from_table(table, study.classes, of_model.image_size, **options)
            return _Source(patches, [f"{study.name}/{row}" for row in range(len(patches))], None)
        study = self.study
        classes = study.classes if study else [f"class {k}" for k in range(of_model.n_classes)]
        table = load_patches(path, self.split, study.group_column if study else "group")
        patches = Patches.from_table(table, classes, of_model.image_size, name=str(path))
        column = study.image_class if study else ""
        image_classes = list(map(str, table[column])) if column in table.column_names else None
        return _Source(patches, [f"{path.stem}/{row}" for row in range(len(patches))], image_classes)


def is_study(path: Path) -> bool:
    """Tell whether a path is that of a study: its file, or the folder of that.

    >>> is_study(Path("no/such/folder"))
    False
    """
    return path.suffix == ".toml" or (path / FILE).is_file()


def _read_layouts(path: Path, tables: _Tables) -> tuple[LayoutPrior | GivenLayouts, dict[str, str] | None]:
    """Read a fitted prior, or the masks of a patch table and the image classes of their rows by id."""
    if (path / "layout_prior.safetensors").exists():
        return load_prior(path), None
    source = tables.read(path)
    if is_study(path):
        return EmpiricalPrior.fit(source.patches), None
    rows = source.patches.has_mask.nonzero().flatten().tolist()
    ids = [source.ids[row] for row in rows]
    image_classes = source.image_classes and {source.ids[row]: source.image_classes[row] for row in rows}
    return GivenLayouts(source.patches.masks[rows], ids), image_classes


def _read_styles(path: Path, tables: _Tables, config: SamplingConfig) -> tuple[StyleBank, dict]:
    """Read a stored style bank, or embed a patch table and list what it tells a ``Pairing`` of its groups."""
    if path.suffix == ".safetensors":
        return StyleBank.load(path), {}
    source = tables.read(path)
    patches, of_groups = source.patches, None
    if config.pairing == "composition":
        of_groups = mean_shares(patches)
    if config.pairing == "class" and source.image_classes:
        of_groups = {name: set() for name in patches.groups}
        for name, image_class in zip(patches.groups, source.image_classes, strict=True):
            of_groups[name].add(image_class)
    annotated_groups = set(patches.annotated().groups)
    return embed_bank(tables.pipeline, patches, source.ids), {
        "of_groups": of_groups,
        "annotated_groups": annotated_groups,
    }
