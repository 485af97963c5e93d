"""A sheet of samples, drawn anew at every checkpoint, to see a generator learn."""

from __future__ import annotations

from pathlib import Path

import torch

from sedm.config import Config
from sedm.data.patch_table import UNKNOWN
from sedm.data.patches import Patches
from sedm.generator.pipeline import SEDMPipeline, sample_images
from sedm.runtime.files import replacing
from sedm.runtime.seeds import seeded_generator
from sedm.styles.sampling import StyleSampler

N_SHOWN = 8  # images on a sample sheet


def save_sample_sheet(
    pipeline: SEDMPipeline, patches: Patches, sampler: StyleSampler, config: Config, path: Path
) -> None:
    """Save a sheet of samples: layouts in grey, below them images in the styles that their columns' bottom row shows.

    Where nothing is annotated, all layouts are null, which is white. Layouts and styles belong to different images and
    stay the same from sheet to sheet, as does the noise.
    """
    from PIL import Image

    generator, annotated = seeded_generator("sample sheet", config.seed), patches.is_annotated
    layout_rows, style_rows = (
        rows[torch.randperm(len(rows), generator=generator)].repeat(N_SHOWN)[:N_SHOWN]  # few rows are shown again
        for rows in ((annotated if annotated.any() else ~annotated).nonzero().flatten(), torch.arange(len(annotated)))
    )
    lenders = patches.images[sampler.draw_rows(style_rows.tolist(), generator)]
    layouts = patches.masks[layout_rows]
    images = sample_images(
        pipeline, layouts, pipeline.encode_styles(lenders), config.sampling, config.seed, progress=False
    )
    grey = layouts.float() * (255 / layouts.where(layouts != UNKNOWN, 0).max().clamp(min=1))
    rows = [grey.clamp(max=255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1), images, lenders[:, 0]]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    with replacing(path) as temporary:
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(temporary)
