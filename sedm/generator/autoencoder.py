"""The autoencoder: images to latents a few times smaller, and back, so that the denoiser has less to compute.

    z ~ N(μ(x), σ²(x)) the latent of image x,   x̂ = decoder(z)
    minimise  mean |x − x̂| + kl_weight · KL(N(μ, σ²) ‖ N(0, 1)) / (numbers in x)
    latents that the denoiser sees = (μ(x) − shift) · scale,   with mean 0 and standard deviation 1

Ours is a small one, trained here; any ``AutoencoderKL`` in a folder of diffusers' format serves as well.
Source: Rombach et al., CVPR 2022 (arXiv 2112.10752), section 3.1 and appendix G, with the KL weight in their sense.
Theirs also learns from a perceptual network and a discriminator; ours does not, because the former's weights would
have to be downloaded. So fine grain comes back smoother than it was.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sedm.config import AutoencoderConfig, Config
from sedm.data.patches import Patches
from sedm.data.pixels import to_signed
from sedm.runtime.fingerprints import hash_of
from sedm.runtime.loop import make_accelerator, memory_format, optimise
from sedm.runtime.network_folders import open_network, read_settings
from sedm.runtime.seeds import seeded_generator

N_NORM_GROUPS = 4  # few and wide ones are fast in bfloat16


def build_autoencoder(config: AutoencoderConfig, seed: int) -> AutoencoderKL:
    """Build an untrained autoencoder, whose initial weights depend on ``seed`` alone.

    Latents are 2 ** (len(config.channels) − 1) times smaller than images, and have ``config.latent_channels``.

    Raises:
        ValueError: a width that the number of norm groups does not divide.

    >>> autoencoder = build_autoencoder(AutoencoderConfig(channels=(8, 16, 16), latent_channels=4), seed=0)
    >>> latent_shape(autoencoder, image_size=64)
    (4, 16)
    """
    if any(width % N_NORM_GROUPS for width in config.channels):
        raise ValueError(f"autoencoder.channels={config.channels}; each must be a multiple of {N_NORM_GROUPS}")
    with torch.random.fork_rng(devices=[]):  # layers initialise from the global state; leave it as it was
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=tuple(config.channels),
            down_block_types=("DownEncoderBlock2D",) * len(config.channels),
            up_block_types=("UpDecoderBlock2D",) * len(config.channels),
            latent_channels=config.latent_channels,
            layers_per_block=1,
            norm_num_groups=N_NORM_GROUPS,
            mid_block_add_attention=False,  # attention over all latents is dear, and colour and grain are local
            shift_factor=0.0,
            scaling_factor=1.0,
        )


class AutoencoderLoss(nn.Module):
    """The autoencoder with its loss as one module: what several processes train is one forward pass."""

    def __init__(self, autoencoder: AutoencoderKL, kl_weight: float):
        super().__init__()
        self.autoencoder = autoencoder
        self.kl_weight = kl_weight

    def forward(self, images: Float[Tensor, "batch 3 h w"], noise: Float[Tensor, "batch c s s"]) -> Float[Tensor, ""]:
        """Compute the loss of images in [−1, 1], their latents drawn with ``noise`` ~ N(0, 1)."""
        parameters = self.autoencoder.encode(images).latent_dist.parameters.float()
        posterior = DiagonalGaussianDistribution(parameters)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample.float()
        return (images - decoded).abs().mean() + self.kl_weight * posterior.kl().sum() / images.numel()


def train_autoencoder(config: Config, patches: Patches, folder: str | Path, progress: bool = True) -> AutoencoderKL:
    """Train the autoencoder and return it with averaged weights, in evaluation mode on the CPU.

    ``folder`` receives it in diffusers' format, and under ``training`` what `sedm.runtime.loop.optimise` writes. An
    interrupted run of the same configuration and data goes on, on as many processes as began it; a finished one is
    loaded.

    Args:
        patches: the images; masks are not looked at. Leave out what later must be new to the autoencoder.
        progress: show a bar with images/s, loss and time left.

    Raises:
        ValueError: no images, images of another size than ``config.data.image_size``, or a size that the
            autoencoder cannot halve so often; or see `sedm.runtime.loop.optimise`.
        FloatingPointError: the loss diverged; the last checkpoint stays.
    """
    settings = config.autoencoder
    size = config.data.image_size
    if not len(patches.images) or tuple(patches.images.shape[2:]) != (size, size):
        raise ValueError(f"images of shape {tuple(patches.images.shape)}; expected (1 or more, 3, {size}, {size})")
    autoencoder = build_autoencoder(settings, config.seed)
    channels, latent_size = latent_shape(autoencoder, size)
    accelerator = make_accelerator()

    def loss_of(model: nn.Module, step: int) -> Tensor:
        generator = seeded_generator("autoencoder batch", config.seed, step, accelerator.process_index)
        rows = torch.randint(len(patches.images), (settings.batch_size,), generator=generator)
        noise = torch.randn(settings.batch_size, channels, latent_size, latent_size, generator=generator)
        return model(to_signed(patches.images[rows]).to(accelerator.device), noise.to(accelerator.device))

    optimise(
        accelerator,
        AutoencoderLoss(autoencoder, settings.kl_weight).to(memory_format=memory_format(accelerator)),
        loss_of,
        settings,
        Path(folder) / "training",
        hash_of(json.dumps([config.seed, dataclasses.asdict(settings)]), patches.images),
        name="autoencoder",
        progress=progress,
    )
    standardise_latents(autoencoder, patches.images, config.seed, settings.n_measured)
    if accelerator.is_main_process:
        _save(autoencoder, Path(folder))
    accelerator.wait_for_everyone()
    return autoencoder


def make_autoencoder(config: Config, patches: Patches, folder: str | Path) -> AutoencoderKL | None:
    """Train our own autoencoder or load another, as ``config.model.autoencoder`` says; None where it is "".

    Args:
        patches: as `train_autoencoder` takes them.
        folder: receives our own.

    Raises:
        ValueError: see `train_autoencoder` and `load_autoencoder`.

    >>> from sedm.config import build_config
    >>> images, masks = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    >>> patches = Patches(images, masks, ["a"], classes=("stroma",))
    >>> make_autoencoder(build_config("tissue", "quick"), patches, "not/written") is None
    True
    """
    if config.model.autoencoder == "own":
        return train_autoencoder(config, patches, folder)
    return load_autoencoder(config.model.autoencoder) if config.model.autoencoder else None


@torch.no_grad()
def standardise_latents(
    autoencoder: AutoencoderKL, images: UInt8[Tensor, "n 3 h w"], seed: int, n_measured: int = 1024
) -> None:
    """Set the autoencoder's ``shift_factor`` and ``scaling_factor`` so that latents have mean 0 and deviation 1.

    They are measured on all images, or on ``n_measured`` of many, drawn with ``seed``.

    >>> autoencoder = build_autoencoder(AutoencoderConfig(channels=(8, 16)), seed=0)
    >>> images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    >>> standardise_latents(autoencoder, images, seed=0)
    >>> round(encode_images(autoencoder, images).std().item(), 3)
    1.0
    """
    if len(images) > n_measured:
        order = torch.randperm(len(images), generator=seeded_generator("measured latents", seed))
        images = images[order[:n_measured]]
    autoencoder.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    latents = encode_images(autoencoder, images).double()
    autoencoder.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())


def _save(autoencoder: AutoencoderKL, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".autoencoder-") as temporary:
        autoencoder.save_pretrained(temporary)
        (folder / "config.json").unlink(missing_ok=True)  # the last to come: a folder without it is not finished
        for path in sorted(Path(temporary).iterdir(), reverse=True):
            path.replace(folder / path.name)


def load_autoencoder(folder: str | Path) -> AutoencoderKL:
    """Load the autoencoder in ``folder`` (diffusers' format, safetensors), in evaluation mode on the CPU.

    Nothing is downloaded: a name of a model hub is not a folder.

    Raises:
        ValueError: no such folder, no or another model's ``config.json``, images that are not RGB, or weights that
            are missing, damaged, or not exactly those of the configuration.

    >>> load_autoencoder("no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder: no such folder; expected one written by save_pretrained of AutoencoderKL
    """
    read_settings(folder, "config.json", ["AutoencoderKL"])
    autoencoder = open_network(AutoencoderKL, folder, kind="AutoencoderKL", dtype=torch.float32)
    if (autoencoder.config.in_channels, autoencoder.config.out_channels) != (3, 3):
        raise ValueError(f"{folder}: its images have {autoencoder.config.in_channels} channels; expected 3, for RGB")
    return autoencoder.requires_grad_(False)


def latent_shape(autoencoder: AutoencoderKL, image_size: int) -> tuple[int, int]:
    """Compute (channels, px a side) of the latents of square images.

    Raises:
        ValueError: an image size that the autoencoder cannot halve so often.
    """
    settings = autoencoder.config
    factor = 2 ** (len(settings.block_out_channels) - 1)
    if image_size % factor:
        raise ValueError(f"images of {image_size} px; this autoencoder needs a multiple of {factor}")
    return settings.latent_channels, image_size // factor


@torch.no_grad()
def encode_images(
    autoencoder: AutoencoderKL, images: UInt8[Tensor, "n 3 h w"], batch_size: int = 64
) -> Float[Tensor, "n c s t"]:
    """Encode images as standardised latents on the CPU, computed on the device where the autoencoder lies.

    They are the modes of the autoencoder's distributions, so that an image has always the same.

    Args:
        batch_size: images encoded at once, which bounds the memory.

    Raises:
        ValueError: images that are not uint8 RGB, or of a size that the autoencoder cannot halve so often.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)} and type {images.dtype}; expected uint8 (n, 3, h, w)")
    for size in images.shape[2:]:
        latent_shape(autoencoder, size)
    shift, scale = _standardisation(autoencoder)

    def encode(chunk: Tensor) -> Tensor:
        encoded = autoencoder.encode(to_signed(chunk).to(autoencoder.device, autoencoder.dtype))
        return (encoded.latent_dist.mode().float().cpu() - shift) * scale

    return torch.cat([encode(chunk) for chunk in images.split(batch_size)])


@torch.no_grad()
def decode_latents(
    autoencoder: AutoencoderKL, latents: Float[Tensor, "n c s t"], batch_size: int = 64
) -> Float[Tensor, "n 3 h w"]:
    """Decode standardised latents to images in [−1, 1] on the CPU.

    Args:
        batch_size: latents decoded at once, which bounds the memory.

    Raises:
        ValueError: latents of another number of channels than the autoencoder's.
    """
    channels, _ = latent_shape(autoencoder, 0)
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(f"latents of shape {tuple(latents.shape)}; this autoencoder decodes (n, {channels}, h, w)")
    shift, scale = _standardisation(autoencoder)

    def decode(chunk: Tensor) -> Tensor:
        chunk = (chunk.float() / scale + shift).to(autoencoder.device, autoencoder.dtype)
        return autoencoder.decode(chunk).sample.float().clamp(-1, 1).cpu()

    return torch.cat([decode(chunk) for chunk in latents.split(batch_size)])


def _standardisation(autoencoder: AutoencoderKL) -> tuple[float, float]:
    """Read shift and scale in diffusers' convention: standardised = (latents − shift) · scale."""
    return autoencoder.config.get("shift_factor") or 0.0, autoencoder.config.scaling_factor
