"""Draws of annotated groups, and what each of them makes: a generator, a layout prior and synthetic images.

All that belongs to a draw sees the masks of its annotated groups, and the images of the other training groups without
theirs. Nothing travels from one draw to another but a generator that was pretrained without any mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import datasets
import torch
from tqdm import tqdm

from sedm.config import Config, SamplingConfig
from sedm.config.studies import STUDIES
from sedm.data.patches import Patches, data_checksum, to_tensors
from sedm.data.sources import load_study
from sedm.data.splits import hide_annotations
from sedm.experiments.colour_transfer import macenko, reinhard
from sedm.experiments.units import claim
from sedm.generation.filtering import keep_pairs, score_pairs
from sedm.generation.generate import generate_patches
from sedm.generation.pairing import GivenLayouts, Pairing
from sedm.generation.shards import weights_hash
from sedm.generator.autoencoder import make_autoencoder
from sedm.generator.denoiser import StyleDiffusion
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.training import train_model
from sedm.layouts import EmpiricalPrior, LayoutPrior, LearnedPrior, RandomFieldPrior
from sedm.runtime.hardware import pick_device
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.predicted_masks import with_pseudo_layouts
from sedm.segmentation.segmenter import kept_segmenter
from sedm.styles.bank import StyleBank

SEGMENTER_JITTER = 0.2  # not tuned: another strength would call for other generators
STYLES = ("unannotated", "annotated", "shuffled", "none", "transductive")
TRANSFERS = {"reinhard": reinhard, "macenko": macenko}


class StudyData(NamedTuple):
    """The data of a study, alike for all its draws."""

    table: datasets.Dataset  # training groups, with all masks there are
    held_out: dict[str, Patches]  # by split; groups that nothing is trained on, but for a judge of layouts
    checksum: str

    @property
    def held_out_groups(self) -> set[str]:
        """The groups of all splits but the training one."""
        return {group for patches in self.held_out.values() for group in patches.groups}


def load_study_data(config: Config, data: str | Path) -> StudyData:
    """The tables of the study and the seed of ``config``.

    Args:
        data: folder of parquet files of a study that is not embedded.
    """
    tables = load_study(config, data)
    held_out = {name: to_tensors(table, config.data.image_size) for name, table in tables.items() if name != "train"}
    train = to_tensors(tables["train"], config.data.image_size)
    return StudyData(tables["train"], held_out, data_checksum(train, *held_out.values()))


def draw_name(config: Config, number: int) -> str:
    """What a draw's folder is called.

    >>> from sedm.config import build_config
    >>> draw_name(build_config("ebhi", "full"), 1)
    'n8-draw1'
    """
    return f"n{config.data.n_annotated_groups}-draw{number}"


class Draw:
    """One draw of annotated groups.

    Its number is the seed of all that is trained or drawn for it; draw 0 is that of the notebooks at seed 0. The
    network that predicts masks and filters pairs is trained with colour augmentation: other groups have other stains.

    Args:
        config: ``data.n_annotated_groups`` groups are annotated.
        number: which groups these are; the groups of a smaller count are among those of a larger one.
        runs: keeps generators and synthetic images, in a folder for each draw.
    """

    def __init__(self, config: Config, study: StudyData, number: int, runs: Path):
        segmentation = replace(config.segmentation, colour_jitter=SEGMENTER_JITTER)
        self.config = replace(config, seed=number, segmentation=segmentation)
        self.study, self.number, self.runs = study, number, Path(runs)
        self.folder = self.runs / draw_name(config, number)
        table = hide_annotations(study.table, config.data.n_annotated_groups, number)
        self.train: Patches = to_tensors(table, config.data.image_size)
        self.classes = STUDIES[config.study].classes

    @property
    def unannotated(self) -> Patches:
        """The images of the other training groups; their masks are UNKNOWN."""
        return self.train.select((~self.train.has_mask).nonzero().flatten().tolist())

    @cached_property
    def with_pseudo_layouts(self) -> Patches:
        """All training images, where nobody annotated them with the masks that a segmentation network predicts."""
        with claim(self.folder / "segmenter.lock", wait=True):
            return with_pseudo_layouts(self.train, self.config, len(self.classes), self.folder)[0]

    @cached_property
    def generator(self) -> SEDMPipeline:
        """The generator of this draw, trained at the first call and kept."""
        config, annotated, initial = self.config, self.train.has_mask, None
        if config.arms.n_pretraining_steps:
            initial = pretrain(config, self.study, self.runs)
            config = replace(config, training=replace(config.training, n_steps=config.arms.n_fine_tuning_steps))
        patches = self.with_pseudo_layouts if config.training.unannotated == "pseudo_layouts" else self.train
        with claim(self.folder / "generator.lock", wait=True):
            folder, held_out = self.folder / f"generator-{_short(config.model)}", self.study.held_out_groups
            autoencoder = _autoencoder(config, self.study, self.runs)
            options = {"autoencoder": autoencoder, "annotated": annotated, "initial": initial}
            model = train_model(config, patches, len(self.classes), folder, held_out, **options)
        pipeline = SEDMPipeline.from_model(model, autoencoder)
        return pipeline.to(pick_device())  # where styles are embedded decides their last bits

    @cached_property
    def layouts(self) -> LayoutPrior | GivenLayouts:
        """Where the layouts of generated images come from: ``arms.layouts``, fitted on the masks of this draw."""
        config, masks = self.config, self.train.annotated().masks
        if config.arms.layouts == "pseudo-layouts":
            rows = (~self.train.has_mask).nonzero().flatten().tolist()
            return GivenLayouts(self.with_pseudo_layouts.masks[rows], list(map(str, rows)))
        if config.arms.layouts == "learned":
            return LearnedPrior.fit(masks, self.classes, n_steps=config.layouts.n_learning_steps, seed=self.number)
        kinds = {"empirical": EmpiricalPrior, "random field": RandomFieldPrior}
        return kinds[config.arms.layouts].fit(masks, self.classes)

    def generate(self, styles: str) -> Patches:
        """``arms.n_images`` generated pairs of image and layout.

        Args:
            styles: whose style the images have. ``unannotated`` and ``annotated``: such training groups, each image
                that of one group. ``shuffled``: the same images as ``unannotated``, but the style of an image mixes
                those of different groups. ``none``: the learned null style. ``transductive``: unannotated groups and
                those of the test split.

        Raises:
            ValueError: an aggregation that cannot tell the null style, for ``none``.
        """
        config, pipeline = self.config, self.generator
        bank, sampling = self._bank(styles), self._sampling
        layouts = config.arms.layouts, config.layouts.n_learning_steps
        made_of = sampling, *layouts, weights_hash(pipeline), self.study.checksum
        name = f"{styles}-{_short(*made_of)}"
        with claim(self.folder / f"{name}.lock", wait=True):
            pairing = Pairing(bank, sampling)
            given = pipeline, self.layouts, bank, sampling, self.number, self.folder / name
            table = generate_patches(*given, pairing=pairing)
        return to_tensors(table)

    def pseudo_labelled(self) -> Patches:
        """The unannotated images with the masks that a segmentation network predicts: what the generator trains on."""
        return self.with_pseudo_layouts.select((~self.train.has_mask).nonzero().flatten().tolist())

    def filtered(self, pairs: Patches, percentile: float) -> Patches:
        """The pairs without those whose layout a segmentation network, trained on this draw's masks, finds least."""
        with claim(self.folder / "segmenter.lock", wait=True):
            settings = self.config.segmentation, len(self.classes), self.number
            segmenter = kept_segmenter(self.folder, "segmenter", self.train, *settings)
        kept = keep_pairs(score_pairs(segmenter, pairs, len(self.classes)), percentile, self.classes)["kept"]
        return pairs.select(kept.to_numpy().nonzero()[0].tolist())

    def transfer(self, method: str) -> Patches:
        """``arms.n_images`` annotated images in the colours of unannotated groups, with their own masks.

        Args:
            method: a name in ``TRANSFERS``.
        """
        annotated, others = self.train.annotated(), self.unannotated
        return transfer_colours(annotated, others, TRANSFERS[method], self.config.arms.n_images, self.number)

    @property
    def _sampling(self) -> SamplingConfig:
        """Groups are chosen by the bank, and pairs filtered afterwards."""
        n_images = self.config.arms.n_images
        return replace(self.config.sampling, n_images=n_images, style_sources="all", filter_percentile=0.0)

    def _bank(self, styles: str) -> StyleBank:
        """The styles that may be lent."""
        pipeline, name = self.generator, weights_hash(self.generator)
        if styles == "none":
            if self.config.model.aggregation == "linear":
                raise ValueError("styles='none' with aggregation='linear', which would map the null style to another")
            return StyleBank(pipeline.denoiser.null_style.detach().cpu()[None], ["no style"], ["null"], name)
        lenders = self.train.annotated() if styles == "annotated" else self.unannotated
        groups, images = lenders.groups, lenders.images
        if styles == "transductive":
            test = self.study.held_out["test"]
            groups, images = groups + test.groups, torch.cat([images, test.images])
        if styles == "shuffled":
            order = torch.randperm(len(groups), generator=seeded_generator("shuffled styles", self.number))
            groups = [groups[row] for row in order.tolist()]
        return StyleBank(pipeline.embed(images), groups, [str(row) for row in range(len(groups))], name)


def pretrain(config: Config, study: StudyData, runs: Path) -> StyleDiffusion:
    """A generator that has seen all training images and no mask, trained at the first call and kept in ``runs``."""
    training = replace(config.training, n_steps=config.arms.n_pretraining_steps, unannotated="null_layout")
    images = to_tensors(hide_annotations(study.table, 0, seed=0), config.data.image_size)
    with claim(runs / "pretraining.lock", wait=True):
        given = replace(config, seed=0, training=training), images, len(STUDIES[config.study].classes)
        folder, autoencoder = runs / f"pretraining-{_short(config.model)}", _autoencoder(config, study, runs)
        return train_model(*given, folder, study.held_out_groups, autoencoder=autoencoder)


def _autoencoder(config: Config, study: StudyData, runs: Path):
    """The one for all draws, which sees images and no mask; None where generators work on pixels."""
    if not config.model.autoencoder:
        return None
    images = to_tensors(hide_annotations(study.table, 0, seed=0), config.data.image_size)
    with claim(runs / "autoencoder.lock", wait=True):
        return make_autoencoder(replace(config, seed=0), images, runs / "autoencoder")


def transfer_colours(patches: Patches, references: Patches, method: Callable, n_images: int, seed: int) -> Patches:
    """``n_images`` of ``patches``, drawn at random, each in the colours of a group of ``references`` drawn at random.

    Masks and groups stay those of the image.

    Args:
        method: `sedm.experiments.colour_transfer.reinhard` or `macenko`.
    """
    generator, names = seeded_generator("colour transfer", seed), list(dict.fromkeys(references.groups))
    rows = torch.randint(len(patches.groups), (n_images,), generator=generator).tolist()
    lenders = torch.randint(len(names), (n_images,), generator=generator).tolist()
    images = torch.empty_like(patches.images[:1]).repeat(n_images, 1, 1, 1)
    for lender in tqdm(sorted(set(lenders)), "colour transfer", unit="group", delay=1):
        of_group = references.images[[row for row, group in enumerate(references.groups) if group == names[lender]]]
        for i in (i for i in range(n_images) if lenders[i] == lender):
            images[i] = method(patches.images[rows[i]][None], of_group)[0]
    return patches.select(rows)._replace(images=images)


def _short(*settings) -> str:
    """Six hexadecimal digits that keep what other settings made apart."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:6]
