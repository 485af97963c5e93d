"""Networks for segmentation: sizes as published, weights from the seed or from a folder, nothing drawn in training."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from sedm.config import SegmentationConfig
from sedm.segmentation.networks import IMAGENET_MEAN, IMAGENET_STD, SegFormer, UNet, build_segmenter

TINY = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1]}


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "millions"), [("segformer_b0", 3.7), ("segformer_b1", 13.7), ("segformer_b2", 27.4)])
def test_segformers_have_the_published_sizes(name, millions):
    """Table 6 of the source counts 3.7, 13.7 and 27.5 million, with a classifier of 150 classes."""
    with torch.device("meta"):
        assert n_parameters(SegFormer(150, name)) / 1e6 == pytest.approx(millions, abs=0.15)


@pytest.mark.parametrize("network", ["unet", "segformer_b0"])
def test_first_weights_depend_on_the_seed_alone(network):
    config = SegmentationConfig(network=network, channels=(8, 16))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build_segmenter(config, 3, seed) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    images = torch.rand(2, 3, 32, 32)
    answers = [one.eval()(images) for one in (first, again, other)]
    assert answers[0].equal(answers[1])
    assert not answers[0].equal(answers[2])
    assert answers[0].shape == (2, 3, 32, 32)


def test_a_segformer_draws_nothing_while_it_trains():
    network, images = (
        build_segmenter(SegmentationConfig(network="segformer_b0"), 2, seed=0).train(),
        torch.rand(2, 3, 32, 32),
    )
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.eval()  # they move while they train, but draw nothing
    assert network(images).equal(network(images))


@pytest.fixture
def folder(tmp_path):
    """A pretrained SegFormer of two classes."""
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=2, decoder_hidden_size=8, **TINY))
    network.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_a_pretrained_one_answers_as_the_library_does(folder):
    ours = build_segmenter(SegmentationConfig(network=str(folder)), 2, seed=0).eval()
    theirs = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    images = torch.rand(2, 3, 32, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    logits = F.interpolate(theirs((images - mean) / std).logits, (32, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours(images), logits)


def test_a_pretrained_one_gets_a_new_classifier_from_the_seed_for_other_classes(folder):
    config = SegmentationConfig(network=str(folder))
    first, again, other = (build_segmenter(config, 5, seed).eval() for seed in (0, 0, 1))
    images = torch.rand(1, 3, 32, 32)
    assert first(images).shape == (1, 5, 32, 32)
    assert first(images).equal(again(images))
    assert not first(images).equal(other(images))
    encoders = [one.network.segformer.state_dict() for one in (first, other)]
    assert all(encoders[0][name].equal(encoders[1][name]) for name in encoders[0])


def test_a_folder_without_a_segformer_is_named(tmp_path, folder):
    with pytest.raises(ValueError, match=f"^network='{tmp_path}': no SegFormer of transformers can be read there"):
        build_segmenter(SegmentationConfig(network=str(tmp_path)), 2, seed=0)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="no SegFormer") as caught:
        build_segmenter(SegmentationConfig(network=str(folder)), 2, seed=0)
    assert "\n" not in str(caught.value)


def test_every_preset_names_a_network():
    for config in (SegmentationConfig(), replace(SegmentationConfig(), network="segformer_b1")):
        with torch.device("meta"):
            assert isinstance(build_segmenter(config, 2, seed=0), UNet | SegFormer)
