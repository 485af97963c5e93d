#!/usr/bin/env bash
# diffusers 0.42.1: ResnetBlock2D leaves channels last before its shortcut, in training alone.
#
# Weights and features are channels last. Every convolution gets them so but one: a block whose width changes calls
# contiguous() on the input of its 1x1 shortcut, in training, not in evaluation. The copy there and back costs more than
# the convolution itself where maps are large and channels few (128 px, 32 to 16 channels, bfloat16 on one CPU thread:
# 17 ms a copy, six in a step, of a step of 0.83 s). Nothing warns, and a profile of evaluation does not show it.
# What to do: a block of one's own for such widths, or profile the training step itself.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$place"
HF_HUB_OFFLINE=1 HF_HOME="$place/home" "$place/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers.models.resnet import ResnetBlock2D

block = ResnetBlock2D(in_channels=32, out_channels=16, temb_channels=8, groups=4)
block = block.to(memory_format=torch.channels_last)
features = torch.randn(2, 32, 8, 8).to(memory_format=torch.channels_last)
is_last = {}


def note(name):
    def hook(layer, inputs):
        is_last[name] = inputs[0].is_contiguous(memory_format=torch.channels_last)

    return hook


for name, layer in block.named_modules():
    if isinstance(layer, torch.nn.Conv2d):
        layer.register_forward_pre_hook(note(name))
found = {}
for mode in ("training", "evaluation"):
    block.train(mode == "training")
    block(features, torch.randn(2, 8))
    found[mode] = dict(is_last)
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}: input is channels last: {found}")
assert found["training"] == {"conv1": True, "conv2": True, "conv_shortcut": False}, "the behaviour changed"
assert found["evaluation"] == {"conv1": True, "conv2": True, "conv_shortcut": True}, "the behaviour changed"
PYTHON
