"""The U-Net: residual blocks of diffusers, wired so that style and layout can enter in the ways we compare.

    style   film             scale and shift after a norm of every residual block and after the last norm, with the time
            bottleneck       one more residual block in the middle, to which the style is added (the reference's way)
            cross_attention  every residual block is followed by attention to one token a style image
            class_film       as film, and at every resolution the pixels of a class are scaled and shifted as the
                             style's token of that class asks for, so that each class takes its own look
    layout  input            channels beside x_t
            every_scale      also added, reduced, to the features of every resolution on the way down and up

Source: Öttl et al., ECCV 2024 (arXiv 2403.14429) for ``bottleneck``; Dhariwal & Nichol 2021 (arXiv 2105.05233),
"AdaGN", for ``film``; Rombach et al. 2022 (arXiv 2112.10752) for ``cross_attention``; Zhu et al. 2020, SEAN (arXiv
1911.12861), for ``class_film``.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaGroupNorm
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sedm.config import ModelConfig

N_GROUPS = 4  # few: the backward pass is several times slower below 16 channels a group on CPUs
HEAD_WIDTH = 32  # channels of an attention head


class StyledBlock(nn.Module):
    """A residual block, followed by attention to the style's tokens where ``token_dim`` is given."""

    def __init__(self, n_in: int, n_out: int, condition_dim: int, token_dim: int | None):
        super().__init__()
        self.residual = _residual_block(n_in, n_out, condition_dim, "scale_shift")
        self.attention = _attention(n_out, token_dim) if token_dim else None

    def forward(
        self,
        features: Float[Tensor, "batch in h w"],
        condition: Float[Tensor, "batch condition"],
        style: Float[Tensor, "batch n_tokens dim"],
    ) -> Float[Tensor, "batch out h w"]:
        features = self.residual(features, condition)
        return features if self.attention is None else self.attention(features, style)


class ClassFilm(nn.Module):
    """Scale and shift of the pixels of each class, from the style's token of the class; hardly any at first."""

    def __init__(self, width: int, token_dim: int):
        super().__init__()
        self.film = nn.Linear(token_dim, 2 * width)
        nn.init.normal_(self.film.weight, std=1e-3)  # not zero, or no gradient would reach the tokens
        nn.init.zeros_(self.film.bias)

    def forward(
        self,
        features: Float[Tensor, "batch c h w"],
        tokens: Float[Tensor, "batch n_classes dim"],
        shares: Float[Tensor, "batch n_classes h w"],
    ) -> Float[Tensor, "batch c h w"]:
        film = shares.flatten(2).mT @ self.film(tokens)  # of every pixel; channels last, as the features lie
        scale, shift = film.mT.unflatten(2, shares.shape[2:]).chunk(2, dim=1)
        return torch.addcmul(shift, features, 1 + scale)


class StyledUNet(nn.Module):
    """Features in, features out, given a time, a style and a layout.

    Args:
        model: ``channels`` are the widths, one a resolution and multiples of 4, the number of norm groups;
            ``n_blocks`` counts the residual blocks at each resolution on the way down, and there is one more on the
            way up; for ``style_injection`` and ``layout_injection`` see above.
        n_channels: of the input and of the output.
        n_layout: channels of the layout.
        n_painted: channels of the layout in the colours of its classes; 0 for none.

    >>> unet = StyledUNet(ModelConfig((8, 16), style_dim=4), n_channels=12, n_layout=8)
    >>> x, layout = torch.randn(2, 12, 16, 16), torch.randn(2, 8, 16, 16)
    >>> unet(x, torch.tensor([0, 999]), torch.randn(2, 1, 4), layout).shape
    torch.Size([2, 12, 16, 16])
    """

    def __init__(self, model: ModelConfig, n_channels: int, n_layout: int, n_painted: int = 0):
        super().__init__()
        channels, n_blocks, style_dim = model.channels, model.n_blocks, model.style_dim
        narrow, wide, time_dim = channels[0], channels[-1], 4 * channels[0]
        token_dim = style_dim if model.style_injection == "cross_attention" else None
        self.time_waves = Timesteps(narrow, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(narrow, time_dim)
        has_film = model.style_injection in ("film", "class_film")
        self.style_film = nn.Linear(style_dim, time_dim) if has_film else None
        self.conv_in = nn.Conv2d(n_channels + n_layout + n_painted, narrow, 3, padding=1)

        def blocks(widths_in: list[int], width: int) -> nn.ModuleList:
            return nn.ModuleList(StyledBlock(n, width, time_dim, token_dim) for n in widths_in)

        self.down, self.reduce, skips, width = nn.ModuleList(), nn.ModuleList(), [narrow], narrow
        for level, wider in enumerate(channels):
            self.down.append(blocks([width] + [wider] * (n_blocks - 1), wider))
            skips += [wider] * n_blocks
            if level + 1 < len(channels):
                self.reduce.append(nn.Conv2d(wider, wider, 3, stride=2, padding=1))
                skips.append(wider)
            width = wider

        self.middle = nn.ModuleList([StyledBlock(wide, wide, time_dim, token_dim) for _ in range(2)])
        self.self_attention = _attention(wide)
        self.style_block = None
        if model.style_injection == "bottleneck":
            self.style_block = _residual_block(wide, wide, style_dim, "default")

        self.up, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for level, wider in reversed(list(enumerate(channels))):
            self.up.append(blocks([wider + skips.pop() for _ in range(n_blocks + 1)], wider))
            if level:  # narrowed before it is enlarged: a quarter of the pixels to compute
                narrowed = nn.Conv2d(wider, channels[level - 1], 3, padding=1)
                self.enlarge.append(nn.Sequential(narrowed, nn.Upsample(scale_factor=2)))

        self.layout_down = self.layout_up = None
        if model.layout_injection == "every_scale":
            self.layout_down = nn.ModuleList(nn.Conv2d(n_layout, width, 1) for width in (narrow, *channels[:-1]))
            self.layout_up = nn.ModuleList(nn.Conv2d(n_layout, width, 1) for width in reversed(channels))
        self.class_down = self.class_up = None
        self.n_folded = model.unshuffle**2
        if model.style_injection == "class_film":
            self.class_down = nn.ModuleList(ClassFilm(width, style_dim) for width in (narrow, *channels[:-1]))
            self.class_up = nn.ModuleList(ClassFilm(width, style_dim) for width in (wide, *reversed(channels[:-1])))
        self.out_norm = AdaGroupNorm(time_dim, narrow, N_GROUPS, act_fn="silu")
        self.out = nn.Conv2d(narrow, n_channels, 3, padding=1)

    def forward(
        self,
        x: Float[Tensor, "batch channels h w"],
        t: Int[Tensor, " batch"],
        style: Float[Tensor, "batch n_tokens dim"],
        layout: Float[Tensor, "batch k h w"],
        painted: Float[Tensor, "batch p h w"] | None = None,
    ) -> Float[Tensor, "batch channels h w"]:
        """Return the features of the last layer.

        A style has one token; for ``cross_attention`` any number, for ``class_film`` one more than classes.
        """
        condition = self.time_embedding(self.time_waves(t).to(x.dtype))
        if self.style_film is not None:
            condition = condition + self.style_film(style[:, 0])  # the token of whole images
        layouts = [layout]  # at every resolution: the share of each class in each pixel
        for _ in self.reduce:
            layouts.append(F.avg_pool2d(layouts[-1], 2))

        shares = []
        if self.class_down is not None:
            # of the classes alone: the last channel marks pixels that nobody knows
            shares = [shape.unflatten(1, (-1, self.n_folded)).mean(2)[:, :-1] for shape in layouts]

        h = self.conv_in(torch.cat([x, layout] if painted is None else [x, layout, painted], dim=1))
        skips = [h]
        for level, blocks in enumerate(self.down):
            if self.layout_down is not None:
                h = h + self.layout_down[level](layouts[level])
            if self.class_down is not None:
                h = self.class_down[level](h, style[:, 1:], shares[level])
            for block in blocks:
                h = block(h, condition, style)
                skips.append(h)
            if level < len(self.reduce):
                h = self.reduce[level](h)
                skips.append(h)

        h = self.self_attention(self.middle[0](h, condition, style))
        if self.style_block is not None:
            h = self.style_block(h, style.flatten(1))
        h = self.middle[1](h, condition, style)

        for level, blocks in enumerate(self.up):
            if self.layout_up is not None:
                h = h + self.layout_up[level](layouts[-1 - level])
            if self.class_up is not None:
                h = self.class_up[level](h, style[:, 1:], shares[-1 - level])
            for block in blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), condition, style)
            if level < len(self.enlarge):
                h = self.enlarge[level](h)
        return self.out(F.silu(self.out_norm(h, condition)))


def _residual_block(n_in: int, n_out: int, condition_dim: int, how: str) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=n_in, out_channels=n_out, temb_channels=condition_dim, groups=N_GROUPS, time_embedding_norm=how
    )


def _attention(width: int, token_dim: int | None = None) -> Attention:
    """Attention among the pixels, or to ``token_dim`` wide tokens; added to its input."""
    head = min(HEAD_WIDTH, width)
    return Attention(
        width,
        cross_attention_dim=token_dim,
        heads=width // head,
        dim_head=head,
        norm_num_groups=N_GROUPS,
        residual_connection=True,
        bias=True,
    )
