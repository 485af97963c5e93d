"""The residual block against that of diffusers, and images that stay channels last."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch.testing import assert_close

from sedm.config import ModelConfig
from sedm.generator.unet import GROUP_WIDTH, Doubling, ResidualBlock, StyledUNet, count_groups

BLOCKS = [(16, 16), (48, 16), (32, 64)]
NAMES = {
    "norm1": "norm_1",
    "conv1": "conv_1",
    "norm2": "norm_2",
    "conv2": "conv_2",
    "time_emb_proj": "film",
    "conv_shortcut": "shortcut",
}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def renamed(name):
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(("n_in", "n_out"), BLOCKS)
def test_the_block_computes_what_that_of_diffusers_does_with_its_weights(n_in, n_out, adds):
    theirs = ResnetBlock2D(
        in_channels=n_in,
        out_channels=n_out,
        temb_channels=8,
        groups=count_groups(n_in),
        groups_out=count_groups(n_out),
        time_embedding_norm="default" if adds else "scale_shift",
    )
    ours = ResidualBlock(n_in, n_out, condition_dim=8, adds=adds)
    ours.load_state_dict({renamed(name): weights for name, weights in theirs.state_dict().items()})
    features, condition = draw(2, n_in, 8, 8), draw(2, 8, seed=1)
    assert_close(ours(features, condition), theirs(features, condition))


@pytest.mark.parametrize("width", range(4, 300, 4))
def test_groups_divide_the_channels_and_are_wide(width):
    n_groups = count_groups(width)
    assert width % n_groups == 0
    assert n_groups == 1 or width // n_groups >= GROUP_WIDTH


def test_doubling_repeats_pixels_in_their_precision():
    features = draw(1, 4, 3, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        doubled = Doubling()(features)
    assert doubled.dtype == torch.bfloat16
    assert torch.equal(doubled, features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_images_stay_channels_last_in_every_convolution_that_trains():
    """But for the first, whose input is put together of several."""
    model = ModelConfig((16, 32), style_dim=8, aggregation="by_class", style_injection="class_film")
    unet = StyledUNet(model, n_channels=3, n_layout=3, n_painted=6).to(memory_format=torch.channels_last).train()
    fitting = {}

    def note(layer, inputs):
        fitting[layer] = inputs[0].is_contiguous(memory_format=torch.channels_last)

    convolutions = [layer for layer in unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer in convolutions:
        layer.register_forward_pre_hook(note)
    layout = torch.zeros(2, 3, 16, 16)
    layout[:, 0] = 1
    unet(draw(2, 3, 16, 16), torch.tensor([1, 2]), draw(2, 3, 8), layout, draw(2, 6, 16, 16))
    assert len(fitting) == len(convolutions) > 10
    assert [layer for layer in convolutions if not fitting[layer]] in ([], [unet.conv_in])


@pytest.mark.parametrize("setting", ["n_blocks", "unshuffle", "style_dim", "condition_dim", "n_style_images"])
@pytest.mark.parametrize("value", [0, -1, True])
def test_a_size_that_is_no_whole_number_is_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting}=.*; it must be a whole number of 1 or more"):
        ModelConfig(**{setting: value})
