"""Backbones of the style encoder: from an image to a vector of features, by convolutions or by transformers."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sedm.runtime.network_folders import open_network

CLASS_WIDTH = 16  # channels of the map that tells classes apart
MOMENTS_SIDE = 32  # pixels along the shorter side, at least, that moments are computed on: enough, and quicker


class ConvolutionalBackbone(nn.Module):
    """A light network, trained from scratch; each convolution halves the resolution.

    The features are the mean *and the standard deviation* of every channel at *every* resolution: colour and stain
    sit in the means of the first layers, texture in the deviations, and neither tells where in the picture it came
    from.

    With ``n_classes`` it also tells the classes of the layout apart, and computes the same features over the pixels of
    each. What tells them merges the maps of all resolutions, from coarse to fine.

    Source of the merging: feature pyramids, Lin et al. 2017 (arXiv 1612.03144).

    Args:
        channels: width after each halving of the resolution.
        n_classes: of the layout; 0 for features of whole images alone.

    >>> ConvolutionalBackbone((8, 16))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 48])
    """

    def __init__(self, channels: Sequence[int], n_classes: int = 0):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(1, wide), nn.SiLU())
            if narrow != 3  # the first layer keeps absolute colour: no normalisation before its statistics
            else nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.SiLU())
            for narrow, wide in pairwise((3, *channels))
        )
        self.n_features = 2 * sum(channels)
        self.class_maps = self.classes = None
        if n_classes:
            self.class_maps = nn.ModuleList(nn.Conv2d(wide, CLASS_WIDTH, 1) for wide in channels)
            self.classes = nn.Sequential(
                nn.Conv2d(CLASS_WIDTH, CLASS_WIDTH, 3, padding=1),
                nn.GroupNorm(1, CLASS_WIDTH),
                nn.SiLU(),
                nn.Conv2d(CLASS_WIDTH, n_classes, 1),
            )

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch features"]:
        """Compute features of ``images`` in [−1, 1], of any size of at least 2 px per halving."""
        return torch.cat([_moments(features)[:, 0] for features in self._maps(images)], dim=1).to(images.dtype)

    def by_class(
        self, images: Float[Tensor, "batch 3 h w"]
    ) -> tuple[
        Float[Tensor, "batch n_tokens features"], Float[Tensor, "batch n_tokens 6"], Float[Tensor, "batch k h2 w2"]
    ]:
        """Compute features and colours of whole images, then of the pixels of each class, and the logits of classes.

        Colours are mean and standard deviation of red, green and blue, at the resolution of the logits, half that of
        the images. A pixel counts for a class with the probability that the logits give it.
        """
        maps = self._maps(images)
        merged = self.class_maps[-1](maps[-1])
        for finer, reduce in zip(reversed(maps[:-1]), reversed(self.class_maps[:-1]), strict=True):
            merged = reduce(finer) + F.interpolate(merged, finer.shape[2:], mode="nearest")
        logits = self.classes(merged).float()
        shares = logits.softmax(dim=1)
        features = torch.cat([_moments(features, shares) for features in maps], dim=2)
        colours = _moments(_mean_of_areas(images, logits.shape[2:]), shares)
        return features.to(images.dtype), colours.to(images.dtype), logits

    def _maps(self, images: Float[Tensor, "batch 3 h w"]) -> list[Float[Tensor, "batch c h2 w2"]]:
        maps = []
        for convolution in self.convolutions:
            maps.append(convolution(maps[-1] if maps else images))
        return maps


def _moments(
    features: Float[Tensor, "batch c h w"], shares: Float[Tensor, "batch k h2 w2"] | None = None
) -> Float[Tensor, "batch n_tokens features"]:
    """Compute mean and standard deviation of every channel over the whole image, then over each class's share of it.

    Of maps of twice `MOMENTS_SIDE` or more, pixels at even distances stand for all.
    """
    size, step = features.shape[2:], max(1, min(features.shape[2:]) // MOMENTS_SIDE)
    with torch.autocast(features.device.type, enabled=False):  # bfloat16 would lose small variances
        # sampled as they lie in memory
        features = features.permute(0, 2, 3, 1)[:, ::step, ::step].permute(0, 3, 1, 2).float()
        weights = features.new_ones(len(features), 1, features[0, 0].numel())
        if shares is not None:
            sampled = _mean_of_areas(shares, size)[:, :, ::step, ::step]
            weights = torch.cat([weights, sampled.flatten(2)], dim=1)
        weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
        pixels = features.flatten(2).mT
        mean = weights @ pixels
        # matrix products of squares: several times faster than var(); the small number keeps the root differentiable
        variance = (weights @ pixels.square() - mean.square()).clamp(min=0) + 1e-6
        return torch.cat([mean, variance.sqrt()], dim=2)


def _mean_of_areas(maps: Float[Tensor, "n c h w"], size: Sequence[int]) -> Float[Tensor, "n c h2 w2"]:
    times, rest = divmod(maps.shape[2], size[0])
    if rest == 0 and maps.shape[3] == times * size[1]:
        return F.avg_pool2d(maps, times)  # the same, and faster
    return F.interpolate(maps, tuple(size), mode="area")


class TransformersBackbone(nn.Module):
    """A vision model of the ``transformers`` library: its pooled output, else the mean of its last hidden state.

    It stays in evaluation mode while it trains. Dropout and stochastic depth would draw from the global random
    state, so that a run could not be repeated, and batch norms would mix the images of a batch.

    Args:
        network: takes ``pixel_values`` (batch, 3, h, w).
        mean, std: of each colour in [0, 1], by which its input is standardised; without them it gets the images in
            [−1, 1].
        n_features: length of the output; measured on a grey image when left out.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        n_features: int | None = None,
    ):
        super().__init__()
        for module in network.modules():
            if getattr(module, "mask_token", None) is not None:
                # of use in pre-training only, and a weight without gradient stops distributed training
                module.mask_token = None
        self.network = network
        self.mean = mean
        self.std = std
        size = getattr(network.config, "image_size", None)  # None: takes any size
        self.size = (size, size) if isinstance(size, int) else size and tuple(size)
        self.train()
        with torch.no_grad():
            self.n_features = n_features or self(torch.zeros(1, 3, *(self.size or (64, 64)))).shape[1]

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch features"]:
        """Compute features of ``images`` in [−1, 1], resized to what the network was made for."""
        if self.size and tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        if self.mean:
            mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
            images = ((images + 1) / 2 - mean) / std
        output = self.network(pixel_values=images)
        pooled = output.get("pooler_output")
        if pooled is None:  # tokens (batch, n, features), or a map (batch, features, h, w)
            pooled = output.last_hidden_state
            pooled = pooled.mean(dim=1) if pooled.ndim == 3 else pooled.mean(dim=(2, 3))
        return pooled.flatten(1)

    def train(self, mode: bool = True) -> TransformersBackbone:
        """Return this backbone, in evaluation mode whatever is asked."""
        return super().train(False)

    def describe(self) -> dict:
        """Return what `rebuild_backbone` needs, in plain values for JSON."""
        settings = self.network.config.to_dict()
        for name in ("id2label", "label2id", "dtype"):  # of another task, and of how weights were stored
            settings.pop(name, None)
        return {"network": settings, "mean": self.mean, "std": self.std, "n_features": self.n_features}


def open_backbone(name: str) -> TransformersBackbone:
    """Open the backbone called ``name``.

    Args:
        name: a folder with a model of ``transformers`` (``config.json``, its weights as safetensors, and perhaps
            ``preprocessor_config.json`` with the colours' mean and standard deviation), or a model type such as
            "swinv2", which then starts from random weights of its standard size.

    Raises:
        ValueError: neither of the two, a folder without a whole model, or a model that does not take images.

    >>> open_backbone("swinv3")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: backbone='swinv3'; give ... or a model type of transformers such as 'swinv2', 'swin', ...
    """
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES

    if Path(name).is_dir():
        return _open_folder(Path(name))
    try:
        config = AutoConfig.for_model(name)
    except ValueError:
        near = difflib.get_close_matches(name, MODEL_FOR_IMAGE_MAPPING_NAMES, n=3) or ["swinv2"]
        raise ValueError(
            f"backbone={name!r}; give 'convolutional', a folder with config.json and its weights, or a model type of "
            f"transformers such as {', '.join(map(repr, near))}"
        ) from None
    network = AutoModel.from_config(config, dtype=torch.float32)
    _check_takes_images(network, name)
    return TransformersBackbone(network)


def rebuild_backbone(description: dict) -> TransformersBackbone:
    """Build the backbone that `TransformersBackbone.describe` described, with random weights and from no file."""
    from transformers import AutoConfig, AutoModel

    network = AutoModel.from_config(AutoConfig.for_model(**description["network"]), dtype=torch.float32)
    return TransformersBackbone(network, description["mean"], description["std"], description["n_features"])


def _open_folder(folder: Path) -> TransformersBackbone:
    from transformers import AutoModel

    network = open_network(
        AutoModel,
        folder,
        kind="model of transformers",
        setting="backbone",
        is_optional=lambda weight: "pooler" in weight,  # many are saved without one
        allow_more=True,
        dtype=torch.float32,
    )
    _check_takes_images(network, str(folder))
    path = folder / "preprocessor_config.json"
    try:
        colours = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"backbone={str(folder)!r}: {path.name} is not JSON ({error})") from error
    mean, std = colours.get("image_mean"), colours.get("image_std")
    if not (mean and std and colours.get("do_normalize", True)):
        return TransformersBackbone(network)
    return TransformersBackbone(network, mean, std)


def _check_takes_images(network: nn.Module, name: str) -> None:
    if network.main_input_name != "pixel_values":
        raise ValueError(f"backbone={name!r}: {type(network).__name__} takes {network.main_input_name}, not images")
