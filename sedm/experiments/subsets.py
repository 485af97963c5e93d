"""Label subsets: the annotated groups of one repetition, and what each of them makes.

A generator, a layout prior and synthetic images of a subset see the masks of its annotated groups, and the images of
the other training groups without theirs. Nothing travels from one subset to another but a generator that was
pretrained without any mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from sedm.config import Config
from sedm.data.patches import Patches
from sedm.data.study_data import StudyData
from sedm.experiments.colour_transfer import fourier, macenko, reinhard
from sedm.experiments.runs import claim
from sedm.generation.filtering import keep_pairs, score_pairs
from sedm.generation.generate import generate_patches
from sedm.generation.pairing import GivenLayouts
from sedm.generation.shards import weights_hash
from sedm.generator.autoencoder import make_autoencoder
from sedm.generator.denoiser import StyleDiffusion
from sedm.generator.pipeline import SEDMPipeline
from sedm.generator.training import train_generator
from sedm.layouts import EmpiricalPrior, LayoutPrior, LearnedPrior, RandomFieldPrior
from sedm.runtime.fingerprints import hash_of
from sedm.runtime.seeds import seeded_generator
from sedm.segmentation.predicted_masks import with_predicted_masks
from sedm.segmentation.segmenter import kept_segmenter
from sedm.styles.bank import StyleBank

STYLES = ("unannotated", "zero_shot", "extrapolated", "annotated", "shuffled", "none", "transductive")
NEVER_SEEN = ("zero_shot", "extrapolated")  # whose generator saw no image of the lenders
TRANSFERS = {"reinhard": reinhard, "macenko": macenko, "fourier": fourier}


def subset_name(config: Config, number: int) -> str:
    """Name the folder of a label subset.

    >>> from sedm.config import build_config
    >>> subset_name(build_config("ebhi", "full"), 1)
    'n8-draw1'
    """
    return f"n{config.data.n_annotated_groups}-draw{number}"


class LabelSubset:
    """One draw of annotated groups, and what is trained and generated with their masks alone.

    Its number is the seed of all that is trained or drawn for it; number 0 is that of the notebooks at seed 0.

    Args:
        config: ``data.n_annotated_groups`` groups are annotated.
        data: of the study; all masks of the training split are there.
        number: which groups these are; the groups of a smaller count are among those of a larger one.
        folder: keeps generators and synthetic images, those of each subset in a folder of their own.
        generator: an already trained one that has seen the masks of this subset; trained when needed if left out.
    """

    def __init__(
        self, config: Config, data: StudyData, number: int, folder: Path, generator: SEDMPipeline | None = None
    ):
        self.config = replace(config, seed=number)
        self.data = data
        self.number = number
        self.shared_folder = Path(folder)
        self.folder = self.shared_folder / subset_name(config, number)
        self.train = data.label_subset(config.data.n_annotated_groups, number)
        self._generator = generator

    @cached_property
    def lenders(self) -> Patches:
        """The unannotated images that lend their styles; nothing but a generator learns from other unannotated ones.

        Raises:
            ValueError: all training groups are annotated.
        """
        return self._of_lenders(self.train.unannotated())

    @cached_property
    def with_predicted_masks(self) -> Patches:
        """All training images; where nobody annotated them, a segmentation network predicts their masks."""
        config = replace(self.config, training=replace(self.config.training, unannotated="predicted_masks"))
        with claim(self.folder / "segmenter.lock", wait=True):
            return with_predicted_masks(self.train, config, self.folder)

    @property
    def pseudo_labelled(self) -> Patches:
        """The lenders with their predicted masks: what the generator trains on, too."""
        return self._of_lenders(self.with_predicted_masks.unannotated())

    def _of_lenders(self, patches: Patches) -> Patches:
        if not len(patches):
            raise ValueError(
                f"{self.folder.name}: all {len(self.train)} training images are annotated, so there is no style to "
                "borrow; annotate fewer groups, or run arms that need no others"
            )
        return patches if self.data.lenders is None else patches.of_groups(self.data.lenders)

    @cached_property
    def generator(self) -> SEDMPipeline:
        """The generator of this subset, trained when it is first asked for and kept."""
        return self._generator if self._generator is not None else self._train_generator()

    @cached_property
    def zero_shot_generator(self) -> SEDMPipeline:
        """A generator that never saw an image of those who lend their styles, trained when it is first asked for."""
        return self._train_generator(without=set(self.lenders.groups))

    def generator_of(self, styles: str) -> SEDMPipeline:
        """Return the generator that images in these styles come from, see `generate`."""
        return self.zero_shot_generator if styles in NEVER_SEEN else self.generator

    def _train_generator(self, without: Collection[str] = ()) -> SEDMPipeline:
        config, initial, name = self.config, None, "zero_shot_generator" if without else "generator"
        if config.arms.n_pretraining_steps:
            initial = pretrain(config, self.data, self.shared_folder, without)
            config = replace(config, training=replace(config.training, n_steps=config.arms.n_fine_tuning_steps))
        patches = self.train
        if config.training.unannotated == "predicted_masks":
            patches = self.with_predicted_masks
        with claim(self.folder / f"{name}.lock", wait=True):
            return train_generator(
                config,
                patches.of_groups(set(patches.groups) - set(without)),
                self.folder / f"{name}-{_short_hash(config.model)}",
                self.data.held_out_groups | set(without),
                autoencoder=_shared_autoencoder(config, self.data, self.shared_folder, without),
                initial=initial,
            )

    @cached_property
    def layouts(self) -> LayoutPrior | GivenLayouts:
        """Where the layouts of generated images come from: ``arms.layouts``, fitted to the masks of this subset."""
        source = self.config.arms.layouts
        if source == "predicted_masks":
            rows = (~self.train.is_annotated).nonzero().flatten().tolist()
            return GivenLayouts(self.with_predicted_masks.masks[rows], list(map(str, rows)))
        if source == "learned":
            return LearnedPrior.fit(self.train, config=self.config.layouts.learned, seed=self.number)
        prior = {"empirical": EmpiricalPrior, "random_field": RandomFieldPrior}[source]
        return prior.fit(self.train)

    def generate(self, styles: str) -> Patches:
        """Generate ``arms.n_images`` pairs of image and layout.

        Args:
            styles: whose style the images have. ``unannotated`` and ``annotated``: such training groups, each image
                that of one group. ``zero_shot``: those of ``unannotated``, of which the generator saw no image.
                ``extrapolated``: from the same generator, those of training groups that are no lenders, mixed and led
                away from each other as ``sampling`` says, for laboratories that nobody has an image of.
                ``shuffled``: the same images as ``unannotated``, but the style of an image mixes
                those of different groups. ``none``: the learned null style. ``transductive``: unannotated groups and
                those of the test split.

        Raises:
            ValueError: an aggregation that cannot tell the null style, for ``none``.
        """
        config = self.config
        # groups are chosen by the bank, and pairs filtered afterwards
        sampling = replace(config.sampling, n_images=config.arms.n_images, style_sources="all", filter_percentile=0.0)
        layouts = config.arms.layouts, config.layouts.learned
        generator = self.generator_of(styles)
        name = f"{styles}-{_short_hash(sampling, *layouts, weights_hash(generator), self.data.checksum)}"
        with claim(self.folder / f"{name}.lock", wait=True):
            table = generate_patches(
                generator, self.layouts, self._bank(styles), sampling, self.number, self.folder / name
            )
        return Patches.from_table(table, self.train.classes)

    @cached_property
    def segmenter(self) -> nn.Module:
        """A segmentation network trained on the masks of this subset, which predicts masks and filters pairs."""
        with claim(self.folder / "segmenter.lock", wait=True):
            return kept_segmenter(self.folder, "segmenter", self.train, self.config.segmentation, seed=self.number)

    def filtered(self, pairs: Patches, percentile: float) -> Patches:
        """Drop the pairs whose layout the segmenter sees least of."""
        kept = keep_pairs(score_pairs(self.segmenter, pairs), percentile, pairs.classes)["kept"]
        return pairs.select(kept.to_numpy().nonzero()[0].tolist())

    def transfer(self, method: str) -> Patches:
        """Recolour ``arms.n_images`` annotated images as unannotated groups are; masks stay their own.

        Args:
            method: a name in ``TRANSFERS``.
        """
        return transfer_colours(
            self.train.annotated(),
            self.lenders,
            TRANSFERS[method],
            n_images=self.config.arms.n_images,
            seed=self.number,
        )

    def _bank(self, styles: str) -> StyleBank:
        """Embed the images that may lend their style."""
        pipeline = self.generator_of(styles)
        name = weights_hash(pipeline)
        if styles == "none":
            if self.config.model.aggregation == "linear":
                raise ValueError("styles='none' with aggregation='linear', which would map the null style to another")
            return StyleBank(pipeline.denoiser.null_style.detach().cpu()[None], ["no style"], ["null"], name)
        lenders = self.train.annotated() if styles == "annotated" else self.lenders
        if styles == "extrapolated":
            lenders = self.train.of_groups(set(self.train.groups) - set(self.lenders.groups))
        groups, images = lenders.groups, lenders.images
        if styles == "transductive":
            groups = groups + self.data.test.groups
            images = torch.cat([images, self.data.test.images])
        if styles == "shuffled":
            order = torch.randperm(len(groups), generator=seeded_generator("shuffled styles", self.number))
            groups = [groups[row] for row in order.tolist()]
        return StyleBank(pipeline.embed(images), groups, [str(row) for row in range(len(groups))], name)


def pretrain(config: Config, data: StudyData, folder: Path, without: Collection[str] = ()) -> StyleDiffusion:
    """Train a generator on the training images of all groups but ``without``, and no mask; keep it in ``folder``."""
    training = replace(config.training, n_steps=config.arms.n_pretraining_steps, unannotated="null_layout")
    images = data.train.hide_masks(0, seed=0)
    name = _name_without("pretraining", without)
    with claim(folder / f"{name}.lock", wait=True):
        pipeline = train_generator(
            replace(config, seed=0, training=training),
            images.of_groups(set(images.groups) - set(without)),
            folder / f"{name}-{_short_hash(config.model)}",
            data.held_out_groups | set(without),
            autoencoder=_shared_autoencoder(config, data, folder, without),
        )
    return StyleDiffusion(pipeline.style_encoder, pipeline.denoiser)


def _shared_autoencoder(config: Config, data: StudyData, folder: Path, without: Collection[str] = ()):
    """Train the autoencoder of all subsets, which sees no mask, nor groups of ``without``; None for pixels."""
    if not config.model.autoencoder:
        return None
    name, images = _name_without("autoencoder", without), data.train
    if without:
        images = images.of_groups(set(images.groups) - set(without))
    with claim(folder / f"{name}.lock", wait=True):
        return make_autoencoder(replace(config, seed=0), images, folder / name)


def _name_without(name: str, groups: Collection[str]) -> str:
    """Name what was trained without some groups: where nobody is a lender for good, each subset has others."""
    return f"zero_shot_{name}-{_short_hash(*sorted(groups))}" if groups else name


def transfer_colours(patches: Patches, references: Patches, method: Callable, n_images: int, seed: int) -> Patches:
    """Draw ``n_images`` of ``patches`` at random, each in the colours of a group of ``references`` drawn at random.

    Masks and groups stay those of the image.

    Args:
        method: `sedm.experiments.colour_transfer.reinhard` or another there.
    """
    generator = seeded_generator("colour transfer", seed)
    own_rows, reference_rows = patches.by_group(), references.by_group()
    rows = torch.randint(len(patches), (n_images,), generator=generator)
    lenders = torch.randint(len(reference_rows), (n_images,), generator=generator)
    drawn, lent = patches.select(rows), list(reference_rows)
    pairs = defaultdict(list)  # of groups, both fitted once → the images that move between them
    for index, (group, lender) in enumerate(zip(drawn.groups, lenders.tolist(), strict=True)):
        pairs[group, lent[lender]].append(index)
    images = torch.empty_like(drawn.images)
    for (group, lender), indices in tqdm(pairs.items(), "colour transfer", unit="pair", delay=1):
        own, wanted = patches.images[own_rows[group]], references.images[reference_rows[lender]]
        images[indices] = method(drawn.images[indices], wanted, own)
    return replace(drawn, images=images)


def _short_hash(*settings) -> str:
    """Hash settings to six hexadecimal digits, to keep what different ones made apart."""
    return hash_of(repr(settings))[:6]
