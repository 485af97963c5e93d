"""Adaptation to a tested group: what it must change, and what it must leave."""

from dataclasses import replace

import pytest
import torch
from test_segmenter import score, squares, train
from torch import nn

from sedm.experiments.colour_transfer import reinhard
from sedm.segmentation.adaptation import predict_groups, predict_with_batch_statistics
from sedm.segmentation.segmenter import predict

TRANSFERS = {"reinhard": reinhard}


def darker(patches):
    """The same images, as another scanner with half the brightness shows them."""
    return replace(patches, images=patches.images // 2)


def share_right(predictions, patches):
    return (predictions == patches.masks).float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["batch_statistics", "reinhard"])
def test_a_group_of_another_scanner_is_seen_as_the_network_learned_to_see(adaptation):
    network, test = train(squares()), squares(seed=1)
    assert score(network) > 0.9
    plain = share_right(predict(network, darker(test).images), test)
    adapted = predict_groups(network, darker(test), adaptation, squares().images, TRANSFERS)
    assert share_right(adapted, test) > max(0.97, plain + 0.05)
    assert share_right(predict_groups(network, test, adaptation, squares().images, TRANSFERS), test) > 0.97


@pytest.mark.slow
def test_each_group_is_adapted_to_by_itself_and_the_network_stays_as_it_is():
    network, test = train(squares()), squares(seed=1)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    for adaptation in ("batch_statistics", "reinhard"):
        together = predict_groups(network, test, adaptation, squares().images, TRANSFERS)
        for group, rows in test.by_group().items():
            alone = test.of_groups({group})
            assert torch.equal(predict_groups(network, alone, adaptation, squares().images, TRANSFERS), together[rows])
    assert all(torch.equal(weights[name], weight) for name, weight in network.state_dict().items())


def test_batch_statistics_are_those_of_the_images_written_out():
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)).eval()
    images = torch.randint(256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = network[0](images.float() / 255)
    mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3))
    expected = (features - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    assert torch.equal(predict_with_batch_statistics(network, images), expected.argmax(1).to(torch.uint8))


def test_every_image_of_a_large_group_counts_alike():
    """65 images are more than fit into one batch, and the last is of another brightness."""
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)).eval()
    images = torch.randint(100, (65, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[64] += 150
    features = network[0](images.float() / 255)
    expected = (features - features.mean((0, 2, 3), keepdim=True)) / features.std((0, 2, 3), keepdim=True)
    found = predict_with_batch_statistics(network, images)
    assert (found == expected.argmax(1)).float().mean() > 0.97


def test_a_network_without_batch_normalisation_is_refused():
    with pytest.raises(ValueError, match="this network has no batch normalisation"):
        predict_with_batch_statistics(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
