"""The U-Net: residual blocks, wired so that style and layout can enter in the ways we compare.

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
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sedm.config import ModelConfig

GROUP_WIDTH = 16  # channels of a group that is normed; with fewer the backward pass is eight times slower on CPUs
HEAD_WIDTH = 32  # channels of an attention head


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm, added to their input; a condition scales and shifts what is between them.

    It computes what ``ResnetBlock2D`` of diffusers 0.42 does, but leaves images channels last where they come so. That
    one makes the input of its shortcut contiguous when it trains, which at 128 px takes longer than the convolution.

    Args:
        n_in, n_out: channels.
        condition_dim: length of the condition.
        adds: whether the condition is added before the second norm, in place of scaling and shifting after it.
    """

    def __init__(self, n_in: int, n_out: int, condition_dim: int, adds: bool = False):
        super().__init__()
        self.adds = adds
        self.norm_1 = nn.GroupNorm(count_groups(n_in), n_in, eps=1e-6)
        self.conv_1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.film = nn.Linear(condition_dim, n_out if adds else 2 * n_out)
        self.norm_2 = nn.GroupNorm(count_groups(n_out), n_out, eps=1e-6)
        self.conv_2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(
        self, features: Float[Tensor, "batch in h w"], condition: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch out h w"]:
        h = self.conv_1(F.silu(self.norm_1(features)))
        condition = self.film(F.silu(condition))[..., None, None]
        if self.adds:
            h = self.norm_2(h + condition)
        else:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        return self.shortcut(features) + self.conv_2(F.silu(h))


class StyledBlock(nn.Module):
    """A residual block, followed by attention to the style's tokens where ``token_dim`` is given."""

    def __init__(self, n_in: int, n_out: int, condition_dim: int, token_dim: int | None):
        super().__init__()
        self.residual = ResidualBlock(n_in, n_out, condition_dim)
        self.attention = _attention(n_out, token_dim) if token_dim else None

    def forward(
        self,
        features: Float[Tensor, "batch in h w"],
        condition: Float[Tensor, "batch condition"],
        style: Float[Tensor, "batch n_tokens dim"],
    ) -> Float[Tensor, "batch out h w"]:
        features = self.residual(features, condition)
        return features if self.attention is None else self.attention(features, style)


class Doubling(nn.Module):
    """Each pixel four times, in the precision it comes in: autocast would go on in float32 from here."""

    def forward(self, features: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c 2*h 2*w"]:
        with torch.autocast(features.device.type, enabled=False):
            return F.interpolate(features, scale_factor=2.0)


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
        model: ``channels`` are the widths, one a resolution; ``n_blocks`` counts the residual blocks at each resolution
            on the way down, and there is one more on the way up; for ``style_injection`` and ``layout_injection`` see
            above.
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
        channels, n_blocks = model.channels, model.n_blocks
        style_dim, condition_dim = model.style_dim, model.condition_dim
        narrow, wide = channels[0], channels[-1]
        token_dim = style_dim if model.style_injection == "cross_attention" else None
        self.time_waves = Timesteps(narrow, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(narrow, condition_dim)
        self.style_film = None
        if model.style_injection in ("film", "class_film"):
            self.style_film = nn.Linear(style_dim, condition_dim)
        self.conv_in = nn.Conv2d(n_channels + n_layout + n_painted, narrow, 3, padding=1)

        def blocks(widths_in: list[int], width: int) -> nn.ModuleList:
            return nn.ModuleList(StyledBlock(n, width, condition_dim, token_dim) for n in widths_in)

        self.down, self.reduce, skips, width = nn.ModuleList(), nn.ModuleList(), [narrow], narrow
        for level, wider in enumerate(channels):
            self.down.append(blocks([width] + [wider] * (n_blocks - 1), wider))
            skips += [wider] * n_blocks
            if level + 1 < len(channels):
                self.reduce.append(nn.Conv2d(wider, wider, 3, stride=2, padding=1))
                skips.append(wider)
            width = wider

        self.middle = nn.ModuleList([StyledBlock(wide, wide, condition_dim, token_dim) for _ in range(2)])
        self.self_attention = _attention(wide)
        self.style_block = None
        if model.style_injection == "bottleneck":
            self.style_block = ResidualBlock(wide, wide, style_dim, adds=True)

        self.up, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for level, wider in reversed(list(enumerate(channels))):
            self.up.append(blocks([wider + skips.pop() for _ in range(n_blocks + 1)], wider))
            if level:  # narrowed before it is enlarged: a quarter of the pixels to compute
                narrowed = nn.Conv2d(wider, channels[level - 1], 3, padding=1)
                self.enlarge.append(nn.Sequential(narrowed, Doubling()))

        self.layout_down = self.layout_up = None
        if model.layout_injection == "every_scale":
            self.layout_down = nn.ModuleList(nn.Conv2d(n_layout, width, 1) for width in (narrow, *channels[:-1]))
            self.layout_up = nn.ModuleList(nn.Conv2d(n_layout, width, 1) for width in reversed(channels))
        self.class_down = self.class_up = None
        self.n_folded = model.unshuffle**2
        if model.style_injection == "class_film":
            self.class_down = nn.ModuleList(ClassFilm(width, style_dim) for width in (narrow, *channels[:-1]))
            self.class_up = nn.ModuleList(ClassFilm(width, style_dim) for width in (wide, *reversed(channels[:-1])))
        self.out_norm = AdaGroupNorm(condition_dim, narrow, count_groups(narrow), act_fn="silu")
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


def count_groups(width: int) -> int:
    """Count the groups that ``width`` channels are normed in: as many as divide them and hold `GROUP_WIDTH`, or one.

    >>> [count_groups(width) for width in (8, 16, 40, 128)]
    [1, 1, 2, 8]
    """
    return next(n for n in range(max(1, width // GROUP_WIDTH), 0, -1) if width % n == 0)


def _attention(width: int, token_dim: int | None = None) -> Attention:
    """Attention among the pixels, or to ``token_dim`` wide tokens; added to its input."""
    head = min(HEAD_WIDTH, width)
    return Attention(
        width,
        cross_attention_dim=token_dim,
        heads=width // head,
        dim_head=head,
        norm_num_groups=count_groups(width),
        residual_connection=True,
        bias=True,
    )
