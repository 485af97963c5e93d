"""Sampling: a diffusers pipeline that takes a layout and a style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, DPMSolverMultistepScheduler, ImagePipelineOutput
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from sedm.config import SamplingConfig
from sedm.data.patch_table import UNKNOWN
from sedm.data.pixels import to_bytes, to_signed
from sedm.generator.autoencoder import decode_latents, load_autoencoder
from sedm.generator.denoiser import Denoiser, StyleDiffusion
from sedm.generator.process import Diffusion
from sedm.runtime.hardware import autocast_dtype
from sedm.runtime.network_folders import open_network, read_settings
from sedm.runtime.seeds import seeded_generator
from sedm.styles.encoder import StyleEncoder


class SEDMPipeline(DiffusionPipeline):
    """Images with given layouts, in the style of given images.

    Sampling is DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095), deterministic after the first noise.

    >>> from sedm.config import ModelConfig
    >>> from sedm.generator.denoiser import build_model
    >>> model = build_model(ModelConfig((8, 16), style_dim=4, style_channels=(8,)), 2, image_size=16, seed=0)
    >>> pipeline = SEDMPipeline.from_model(model)
    >>> styles = pipeline.encode_styles(torch.zeros(1, 4, 3, 16, 16, dtype=torch.uint8))
    >>> layouts = torch.zeros(2, 16, 16, dtype=torch.uint8)
    >>> pipeline(layouts, styles.expand(2, -1, -1), noise_generators(seed=0, indices=[0, 1]), 2).images[0].size
    (16, 16)
    """

    _optional_components = ["autoencoder"]  # noqa: RUF012, diffusers adds a list to it

    def __init__(
        self,
        style_encoder: StyleEncoder,
        denoiser: Denoiser,
        scheduler: DPMSolverMultistepScheduler,
        autoencoder: AutoencoderKL | None = None,
    ):
        super().__init__()
        self.register_modules(
            style_encoder=style_encoder, denoiser=denoiser, scheduler=scheduler, autoencoder=autoencoder
        )

    @classmethod
    def from_model(cls, model: StyleDiffusion, autoencoder: AutoencoderKL | None = None) -> SEDMPipeline:
        """Build the pipeline of a trained ``StyleDiffusion``, with the autoencoder whose latents it was trained on."""
        scheduler = Diffusion(model.denoiser.config.model.objective).solver()
        return cls(model.style_encoder, model.denoiser, scheduler, autoencoder)

    def as_model(self) -> StyleDiffusion:
        """Return encoder and denoiser as the one module that is trained; it shares their weights."""
        return StyleDiffusion(self.style_encoder, self.denoiser)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None) -> SEDMPipeline:
        """Open the pipeline that ``save_pretrained`` wrote to ``folder``; read safetensors only.

        Args:
            dtype: of the networks; as they were stored when left out.

        Raises:
            ValueError: a folder without a model, or with one of another library or another version's architecture.

        >>> SEDMPipeline.from_pretrained("no/such/folder")
        Traceback (most recent call last):
        ...
        ValueError: no/such/folder: no such folder; expected one written by save_pretrained of SEDMPipeline
        """
        folder = Path(folder)
        parts = read_settings(folder, "model_index.json", [cls.__name__])
        networks = {
            name: open_network(
                network_class,
                folder / name,
                kind=network_class.__name__,
                dtype=dtype,
                is_optional=lambda weight: weight.startswith("deviations."),  # of models that counted none
            )
            for name, network_class in (("style_encoder", StyleEncoder), ("denoiser", Denoiser))
        }
        if any(parts.get("autoencoder", ())):  # (library, class), or (None, None)
            networks["autoencoder"] = load_autoencoder(folder / "autoencoder")
        try:
            return super().from_pretrained(str(folder), **networks)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: a part of the pipeline is missing or damaged ({error})") from error

    @torch.no_grad()
    def embed(self, images: UInt8[Tensor, "n 3 h w"], batch_size: int = 256) -> Float[Tensor, "n dim"]:
        """Embed the style of each image, on the CPU."""
        embeddings = [
            self.style_encoder.embed(to_signed(chunk, self.device, self.style_encoder.dtype)).float().cpu()
            for chunk in images.split(batch_size)
        ]
        return torch.cat(embeddings)

    def encode_styles(self, images: UInt8[Tensor, "batch n 3 h w"]) -> Float[Tensor, "batch n_tokens dim"]:
        """Return one style an item: the aggregated embeddings of its n style images, on the CPU.

        Give images at the size and the resolution that the model was trained on: enlarged or reduced ones have another
        texture, which changes the style as much as another patient does.

        Raises:
            ValueError: images that are not uint8, or of other dimensions.
        """
        if images.dtype != torch.uint8 or images.ndim != 5 or images.shape[2] != 3 or 0 in images.shape[:2]:
            raise ValueError(
                f"style images of shape {tuple(images.shape)} and type {images.dtype}; "
                "expected uint8 (batch, n, 3, h, w) with batch ≥ 1 and n ≥ 1"
            )
        return self.aggregate(self.embed(images.flatten(0, 1)).unflatten(0, images.shape[:2]))

    @torch.no_grad()
    def aggregate(self, embeddings: Float[Tensor, "batch n length"]) -> Float[Tensor, "batch n_tokens dim"]:
        """Return one style an item, made of embeddings that are already there (a style bank)."""
        return self.style_encoder.aggregate(embeddings.to(self.device)).cpu()

    def styles_alone(self, embeddings: Float[Tensor, "n length"]) -> Float[Tensor, "n n_tokens dim"]:
        """Return the style of each image by itself, as if it were all the style images: a place in the style space."""
        n_images = self.style_encoder.config.model.n_style_images
        return self.aggregate(embeddings[:, None].expand(-1, n_images, -1))

    @staticmethod
    def mix_styles(
        styles: Float[Tensor, "n n_tokens dim"], weights: Sequence[float]
    ) -> Float[Tensor, "1 n_tokens dim"]:
        """Average several styles, token by token, by their weights, which are brought to sum 1.

        A weight of 1 on one style and 0 on the others gives exactly that style. A negative weight leads beyond the
        others, away from its style.

        Raises:
            ValueError: another number of weights than styles, or a sum that is not above zero.

        >>> SEDMPipeline.mix_styles(torch.tensor([[[0.0, 4.0]], [[8.0, 0.0]]]), [1, 3])
        tensor([[[6., 1.]]])
        """
        if len(weights) != len(styles):
            raise ValueError(f"{len(weights)} weights for {len(styles)} styles")
        if not 0 < sum(weights) < math.inf:
            raise ValueError(f"weights={list(weights)}; their sum must be above 0")
        shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        return torch.tensordot(shares, styles.double(), dims=1).to(styles.dtype)[None]

    @torch.no_grad()
    def __call__(
        self,
        layouts: UInt8[Tensor, "batch h w"],
        styles: Float[Tensor, "batch n_tokens dim"] | None,
        generator: torch.Generator | Sequence[torch.Generator],
        num_inference_steps: int = 8,
        guidance_scale: float = 1.0,
        output_type: str = "pil",
        before_step: Callable[[], None] | None = None,
    ) -> ImagePipelineOutput:
        """Sample one image a layout: ``.images`` is a list of pictures (``pil``) or uint8 (batch, 3, h, w) (``pt``).

        Calls from several threads do not disturb each other: each has a scheduler of its own.

        Args:
            layouts: class indices, or ``UNKNOWN`` where anything may be.
            styles: one an image, of one token unless the model attends to several; None for the learned null style.
            generator: of the noise. One an image (`noise_generators`): an image does not depend on its neighbours. A
                single one draws the noise of all, one after another.
            num_inference_steps: solver steps, each one network evaluation (two when guided, run as one batch).
            guidance_scale: prediction = null + guidance_scale · (styled − null); 1 means no guidance.
            before_step: called before each solver step; what it raises ends the sampling there.

        Raises:
            ValueError: sizes, counts or classes that do not fit each other or the model.
        """
        generators = [generator] * len(layouts) if isinstance(generator, torch.Generator) else generator
        self._check(layouts, styles, generators, guidance_scale, output_type)
        layouts = layouts.to(self.device)
        null = self.denoiser.null_styles(len(layouts))
        null = null if styles is None else null.expand_as(styles)
        guided = guidance_scale != 1.0 and styles is not None
        styles = null if styles is None else styles.to(self.device, null.dtype)
        x_t = self._noise(generators).to(self.device, null.dtype)
        scheduler = type(self.scheduler).from_config(self.scheduler.config)  # it keeps the state of a sampling
        Diffusion(self.denoiser.config.model.objective).start(
            scheduler, num_inference_steps, x_t.shape[-1], self.device
        )
        for t in self.progress_bar(scheduler.timesteps):
            if before_step is not None:
                before_step()
            if guided:
                both = self._denoise(x_t.repeat(2, 1, 1, 1), t, layouts.repeat(2, 1, 1), torch.cat([null, styles]))
                of_null, of_style = both.chunk(2)
                output = of_null + guidance_scale * (of_style - of_null)
            else:
                output = self._denoise(x_t, t, layouts, styles)
            x_t = scheduler.step(output, t, x_t).prev_sample
        if self.autoencoder is not None:
            x_t = decode_latents(self.autoencoder, x_t)
        images = to_bytes(x_t).cpu()
        if output_type == "pil":
            images = self.numpy_to_pil(images.permute(0, 2, 3, 1).numpy() / 255)
        return ImagePipelineOutput(images=images)

    def _noise(self, generators: Sequence[torch.Generator]) -> Float[Tensor, "batch c s s"]:
        shape = self.denoiser.config
        size = shape.sample_size or shape.image_size
        return torch.stack(
            [torch.randn(shape.sample_channels, size, size, generator=generator) for generator in generators]
        )

    def _denoise(self, x_t, t, layouts, styles):
        dtype = autocast_dtype(self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            return self.denoiser(x_t, t.expand(len(x_t)), layouts, styles).float()

    def _check(self, layouts, styles, generators, guidance_scale, output_type) -> None:
        size, n_classes = self.denoiser.config.image_size, self.denoiser.config.n_classes
        if layouts.ndim != 3 or layouts.dtype != torch.uint8 or tuple(layouts.shape[1:]) != (size, size):
            raise ValueError(
                f"layouts of shape {tuple(layouts.shape)} and type {layouts.dtype}; "
                f"this model takes uint8 (n, {size}, {size})"
            )
        if ((layouts >= n_classes) & (layouts != UNKNOWN)).any():
            raise ValueError(
                f"a layout holds {layouts[layouts != UNKNOWN].max()}, outside the classes 0..{n_classes - 1}"
            )
        if styles is not None:
            model = self.denoiser.config.model
            n_tokens = self.denoiser.null_styles(1).shape[1]
            if model.style_injection == "cross_attention":  # as many as style images
                n_tokens = styles.shape[1:2].numel()
            if tuple(styles.shape) != (len(layouts), n_tokens, model.style_dim):
                raise ValueError(
                    f"styles of shape {tuple(styles.shape)} for {len(layouts)} layouts; expected "
                    f"({len(layouts)}, {n_tokens}, {model.style_dim})"
                )
            if not styles.isfinite().all():
                raise ValueError("a style holds values that are not finite; encode its images again")
        if len(generators) != len(layouts):
            raise ValueError(f"{len(generators)} generators for {len(layouts)} layouts; give each image its own")
        if not 0 <= guidance_scale < math.inf:
            raise ValueError(f"guidance_scale={guidance_scale}; it must be 0 or more, and 1 means no guidance")
        if output_type not in ("pil", "pt"):
            raise ValueError(f"output_type={output_type!r}; choose 'pil' or 'pt'")


def noise_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """Make one generator an image: image i of a seed starts from the same noise in any batch.

    >>> len(noise_generators(seed=0, indices=range(3)))
    3
    """
    return [seeded_generator("sampling noise", seed, index) for index in indices]


def sample_images(
    pipeline: SEDMPipeline,
    layouts: UInt8[Tensor, "n h w"],
    styles: Float[Tensor, "n n_tokens dim"] | None,
    config: SamplingConfig,
    seed: int,
    indices: Sequence[int] | None = None,
    progress: bool = True,
) -> UInt8[Tensor, "n 3 h w"]:
    """Sample images for any number of layouts, in micro-batches, with a bar of images/s and time left.

    Args:
        config: its steps, guidance and micro-batch are used.
        indices: number of each image, which decides its noise; 0…n−1 when left out.
    """
    indices = list(range(len(layouts)) if indices is None else indices)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    with tqdm(total=len(layouts), desc="sampling", unit="image", disable=not progress) as bar:
        for first in range(0, len(layouts), config.micro_batch):
            part = slice(first, first + config.micro_batch)
            generators = noise_generators(seed, indices[part])
            part_styles = None if styles is None else styles[part]
            sampled = pipeline(layouts[part], part_styles, generators, config.n_steps, config.guidance_scale, "pt")
            images.append(sampled.images)
            bar.update(len(sampled.images))
    return torch.cat(images)


def sample_crossing(
    pipeline: SEDMPipeline,
    layouts: UInt8[Tensor, "m h w"],
    styles: Float[Tensor, "n n_tokens dim"],
    config: SamplingConfig,
    seed: int,
) -> UInt8[Tensor, "n m 3 h w"]:
    """Sample every layout in every style."""
    every_layout = layouts.repeat(len(styles), 1, 1)
    every_style = styles.repeat_interleave(len(layouts), dim=0)
    images = sample_images(pipeline, every_layout, every_style, config, seed)
    return images.unflatten(0, (len(styles), len(layouts)))
