"""What bfloat16 changes: rounding, and nothing else. Every other test computes in float32."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sedm.config import SegmentationConfig, build_config
from sedm.data.drawn.tissue import CLASSES, make_tissue
from sedm.data.patches import Patches
from sedm.generator.pipeline import noise_generators
from sedm.runtime.hardware import autocast_dtype, pick_device
from sedm.runtime.results import Results
from sedm.segmentation.segmenter import predict, train_segmenter

ROOT = Path(__file__).resolve().parents[2]


def precisions(monkeypatch, compute):
    """What ``compute`` returns in float32 and in bfloat16."""
    found = []
    for precision in ("float32", "bfloat16"):
        monkeypatch.setenv("SEDM_PRECISION", precision)
        found.append(compute())
    return found


def test_the_precision_that_is_asked_for_is_used_and_told(monkeypatch, tmp_path):
    assert precisions(monkeypatch, lambda: autocast_dtype(pick_device())) == [None, torch.bfloat16]
    results = Results(build_config("tissue", "smoke"), tmp_path, tmp_path)
    saved = precisions(monkeypatch, lambda: json.loads(results.save_values("one", {}).read_text())["run"]["precision"])
    assert saved == ["float32", "bfloat16"]


def test_the_hardware_decides_where_nobody_asks(monkeypatch):
    monkeypatch.delenv("SEDM_PRECISION")
    for native in (True, False):
        monkeypatch.setattr("sedm.runtime.hardware._cpu_has_bf16", lambda native=native: native)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
        assert autocast_dtype(torch.device("cpu")) == (torch.bfloat16 if native else None)


@pytest.mark.processes
def test_another_precision_is_refused_before_anything_starts(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sedm",
        "train",
        "tissue",
        "--preset",
        "smoke",
        "--out",
        str(tmp_path),
    ]
    said = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"SEDM_PRECISION": "half"}, capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert said.stderr.strip() == ("sedm train: SEDM_PRECISION='half'; set it to float32 or bfloat16, or leave it out")


def test_sampling_differs_by_rounding(monkeypatch, pipeline):
    layouts = torch.randint(2, (4, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    styles = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(1))

    def sample():
        generators = noise_generators(0, range(4))
        return pipeline(layouts, styles, generators, 4, output_type="pt").images.float()

    whole, half = precisions(monkeypatch, sample)
    assert 0 < (whole - half).abs().max() <= 16  # of 255
    assert (whole - half).abs().mean() < 1
    assert sample().equal(half)


@pytest.mark.slow
def test_a_segmentation_network_learns_as_much(monkeypatch):
    patches = Patches.from_table(make_tissue(3, 6, image_size=32, seed=0), CLASSES)
    config = SegmentationConfig(channels=(8, 16), n_steps=60, batch_size=8)

    def share_right():
        network = train_segmenter(patches, config, seed=0, progress=False)
        return (predict(network, patches.images) == patches.masks).float().mean().item()

    whole, half = precisions(monkeypatch, share_right)
    assert whole > 0.8
    assert half == pytest.approx(whole, abs=0.05)
    assert share_right() == half


@pytest.mark.processes
def test_training_differs_by_rounding_and_repeats_itself(tmp_path):
    def train(folder, precision):
        command = [
            sys.executable,
            "-m",
            "sedm",
            "train",
            "tissue",
            "--preset",
            "smoke",
            "--out",
            str(folder),
        ]
        settings = os.environ | {"SEDM_PRECISION": precision, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=True)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        (model,) = folder.rglob("denoiser/*.safetensors")
        return [json.loads(line)["loss"] for line in lines], load_file(model)

    runs = ("whole", "float32"), ("half", "bfloat16"), ("again", "bfloat16")
    with ThreadPoolExecutor(max_workers=2) as pool:
        whole, half, again = pool.map(lambda run: train(tmp_path / run[0], run[1]), runs)
    assert half[0] == again[0]
    assert all(half[1][name].equal(weight) for name, weight in again[1].items())
    assert half[0] != whole[0]
    assert half[0] == pytest.approx(whole[0], rel=0.02)
    assert {weight.dtype for weight in half[1].values()} == {torch.float32}
