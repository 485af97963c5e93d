"""Packing of a finished run into a folder that can be shipped: weights, layout prior, style bank and model card."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch

from sedm.config import Study, find_study
from sedm.generation.shards import weights_hash
from sedm.generator.pipeline import SEDMPipeline, noise_generators
from sedm.runtime.files import replacing
from sedm.runtime.hardware import computing_in
from sedm.sharing.model_card import model_card
from sedm.sharing.pretrained import BANK, FACTS, Pretrained, load_pretrained

LARGEST = 25 * 2**20  # bytes of a file, in a repository without large-file storage
ALIKE = 2  # grey levels by which half precision may change a picture
N_COMPARED = 4  # pictures that are compared


def pack_run(
    study: str | Path | Study, run: str | Path, figures: str | Path, out: str | Path, half: bool = False
) -> Path:
    """Pack a run for ``load_pretrained``, with a card as README.md, and return the folder ``out``.

    Args:
        study: its name or file.
        run: folder with ``model/``, the layout prior and the style bank of a finished run.
        figures: folder with its ``values_training.json`` and, where it was measured, ``values_fidelity.json``.
        out: folder to be made; no image and no mask that may not be redistributed gets into it.
        half: store the denoiser in half precision, when pictures stay the same to within ``ALIKE`` grey levels.

    Raises:
        ValueError: a run that lacks a part, whose prior holds masks that may not be redistributed, whose files are too
            large, or whose pictures half precision would change. Nothing is left in ``out``.
    """
    study = find_study(study)
    run, figures, out = Path(run), Path(figures), Path(out)
    if not (figures / "values_training.json").is_file():
        raise ValueError(f"{figures}: no values_training.json; run notebook 03 of this study first")
    if out.exists():
        raise ValueError(f"{out}: exists already; delete it first")
    if not run.is_dir():
        raise ValueError(f"{run}: no such folder; expected that of a run, with model/, layout prior and style bank")
    pretrained = load_pretrained(run)
    if pretrained.layouts.kind == "empirical" and not study.redistributable:
        raise ValueError(
            f"{run}: its layout prior holds masks of {study.name}, which may not be redistributed; "
            "fit a 'random_field' or 'learned' one"
        )
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(pretrained, temporary, study, figures, half)
        _check_sizes(temporary, half)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write(pretrained: Pretrained, folder: Path, study: Study, figures: Path, half: bool) -> None:
    """Write everything into ``folder``, and check that the packed model draws the same pictures."""
    pipeline, styles = pretrained.pipeline, pretrained.styles
    before = _pictures(pretrained)
    if half:
        pipeline.denoiser.half()
    pipeline.save_pretrained(folder)
    _forget_origin(folder)
    packed = SEDMPipeline.from_pretrained(folder, dtype=torch.float32)
    pretrained.layouts.save(folder)
    # the hash is that of the packed weights, so that generation accepts the bank; its encoder was not changed
    dataclasses.replace(styles, model=weights_hash(packed)).save(folder / BANK)
    apart = int((_pictures(load_pretrained(folder)).int() - before.int()).abs().max())
    if apart > (ALIKE if half else 0):
        raise ValueError(f"{study.name}: pictures of the packed model differ by {apart} grey levels; pack without half")
    training = json.loads((figures / "values_training.json").read_text())
    measured = figures / "values_fidelity.json"
    fidelity = json.loads(measured.read_text()) if measured.is_file() else None
    n_styles = (len(styles.groups), len(styles.names))
    card = model_card(study, training, fidelity, pretrained.layouts.kind, n_styles)
    _write_text(folder / "README.md", f"{card}\n")
    facts = {"study": study.name, "half_precision": half, **training["run"]}
    _write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")


def _pictures(pretrained: Pretrained):
    n = min(N_COMPARED, len(pretrained.styles.names))
    layouts = pretrained.layouts.sample(n, seed=0)
    styles = pretrained.group_styles[:n]
    with computing_in("float32"):  # bfloat16 rounds more than half precision of the weights changes
        return pretrained.pipeline(layouts, styles, noise_generators(0, range(n)), output_type="pt").images


def _forget_origin(folder: Path) -> None:
    """Remove where the parts were loaded from, which diffusers writes down: a place on this machine."""
    for path in folder.rglob("*.json"):
        settings = json.loads(path.read_text())
        if settings.pop("_name_or_path", None) is not None:
            _write_text(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _check_sizes(folder: Path, half: bool) -> None:
    """Refuse a file that is too large."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > LARGEST:
            hint = "train a smaller network" if half else "pack with half precision"
            raise ValueError(f"{path.name}: {path.stat().st_size / 2**20:.0f} MiB; at most 25 can be shipped: {hint}")


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
