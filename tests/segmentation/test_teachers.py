"""Teachers: what a network learns from images without masks, and what it must not."""

import math
from dataclasses import replace

import pytest
import torch
from test_segmenter import CONFIG, same_weights, score, squares, train
from torch.optim.swa_utils import AveragedModel

from sedm.config import SegmentationConfig
from sedm.segmentation.networks import UNet, build_segmenter
from sedm.segmentation.teachers import draw_pieces, mean_teacher_loss, unimatch_loss

JITTERED, PLAIN = (SegmentationConfig(student_jitter=strength) for strength in (0.3, 0.0))


# ------------------------------------------------------------------------------------------- the mean teacher


def test_a_student_that_sees_what_its_teacher_sees_has_nothing_to_learn_from_it():
    network, images = UNet(2, (8, 16)).eval(), squares(4).images.float() / 255
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert mean_teacher_loss(network, network, images, JITTERED, generators[0]) > 0
    assert mean_teacher_loss(network, network, images, PLAIN, generators[1]) == 0


def test_no_gradient_reaches_the_teacher():
    student, teacher = UNet(2, (8, 16)), UNet(2, (8, 16))
    loss = mean_teacher_loss(
        student, teacher, squares(4).images.float() / 255, JITTERED, torch.Generator().manual_seed(0)
    )
    loss.backward()
    assert all(weight.grad is not None for name, weight in student.named_parameters())
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.slow
def test_a_mean_teacher_is_the_moving_average_of_its_student(monkeypatch):
    """Written out for one weight, whose course is recorded after every step."""
    course, update = [], AveragedModel.update_parameters

    def record(teacher, student):
        course.append(student.head.bias.detach().clone())
        update(teacher, student)

    monkeypatch.setattr(AveragedModel, "update_parameters", record)
    config = replace(CONFIG, n_steps=105)
    found = train(squares(), config, unannotated=squares(8, seed=2).images).head.bias
    average = course[0]  # the first step is copied
    for n, bias in enumerate(course[1:], start=1):
        share = max(0.01, 1 / (n + 1))
        average = (1 - share) * average + share * bias
    torch.testing.assert_close(found, average)


@pytest.mark.slow
def test_unannotated_images_count_and_the_seed_decides_how():
    config, images = replace(CONFIG, n_steps=20), squares(8, seed=2).images
    first, again = (train(squares(), config, unannotated=images) for _ in range(2))
    assert same_weights(first, again)
    assert not same_weights(first, train(squares(), config, unannotated=255 - images))
    assert not same_weights(first, train(squares(), config))


@pytest.mark.slow
def test_a_mean_teacher_answers_alike_whatever_the_colours():
    """Squares so pale that a shift of colour could pass for one. A short run needs a teacher that follows closely."""
    config = replace(CONFIG, n_steps=120, teacher_decay=0.8)
    images = squares(32, seed=4, contrast=60).images.float() / 255

    def inconsistency(weight):
        taught = replace(config, consistency_weight=weight)
        network = train(squares(contrast=60), taught, unannotated=squares(48, seed=3, contrast=60).images)
        assert score(network, contrast=60) > 0.9  # and not by saying the same everywhere
        return mean_teacher_loss(network, network, images, JITTERED, torch.Generator().manual_seed(0))

    assert inconsistency(1.0) < 0.2 * inconsistency(0.0)


# ---------------------------------------------------------------------------------------------------- UniMatch


class Sure(torch.nn.Module):
    """Says of each pixel that it is bright, and how sure it is: by its red."""

    def __init__(self, confidence):
        super().__init__()
        self.logit = torch.logit(torch.tensor(confidence))

    def forward(self, images):
        logits = torch.where(images[:, 0] > 0.5, self.logit, -self.logit)
        return torch.stack([-logits / 2, logits / 2], dim=1)


def loss_of(teacher, confidence=0.95, images=None, network=None, seed=0):
    config = replace(PLAIN, confidence=confidence)
    images = squares(4).images.float() / 255 if images is None else images
    network = UNet(2, (8, 16)).eval() if network is None else network
    return unimatch_loss(network, teacher, images, config, torch.Generator().manual_seed(seed))


def test_a_teacher_that_is_not_sure_is_not_believed():
    network = UNet(2, (8, 16)).eval()
    assert loss_of(Sure(0.9), network=network) == 0
    assert loss_of(Sure(0.96), network=network) > 0
    assert loss_of(Sure(0.9), confidence=0.85, network=network) == loss_of(Sure(0.96), network=network)


class Answering(UNet):
    """Answers as a `Sure` teacher would, and notes what it is shown and which features it is to keep."""

    def __init__(self):
        super().__init__(2, (8, 16))
        self.shown, self.kept = [], []

    def forward(self, images, factors=None):
        self.shown.append(images.clone())
        self.kept.append(factors)
        return Sure(0.999)(images)


def test_pieces_take_their_classes_along_and_each_feature_is_kept_once():
    """A network that answers what it is shown as the teacher would is never wrong, whatever was pasted in."""
    network, images = Answering(), squares(6).images.float() / 255
    assert float(loss_of(Sure(0.999), images=images, network=network)) == pytest.approx(-math.log(0.999), abs=1e-4)
    first, second = network.shown
    assert not torch.equal(first, second)
    assert torch.equal(network.kept[0] + network.kept[1], torch.full((6, 16, 1, 1), 2.0))
    assert 0.3 < network.kept[0].mean() / 2 < 0.7
    share = torch.stack([(first != second).any(1).float().mean()])
    assert 0.01 < share < 0.8


def test_pieces_are_rectangles_of_the_asked_size_anywhere():
    pieces = draw_pieces(5000, 32, 48, torch.Generator().manual_seed(0))
    for piece in pieces[:50]:
        rows, columns = piece.any(1).nonzero().flatten(), piece.any(0).nonzero().flatten()
        assert piece[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert piece.sum() == len(rows) * len(columns)
    assert pieces.any(0).all()  # no pixel is out of reach
    assert 0.15 < pieces.float().mean() < 0.25


def test_no_gradient_of_unimatch_reaches_the_teacher_and_the_seed_decides_its_views():
    student, teacher = UNet(2, (8, 16)), UNet(2, (8, 16))
    loss = loss_of(teacher, confidence=0.0, network=student)
    loss.backward()
    assert all(weight.grad is not None for weight in student.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    student.eval()
    assert loss_of(teacher, confidence=0.0, network=student) == loss_of(teacher, confidence=0.0, network=student)
    assert loss_of(teacher, confidence=0.0, network=student) != loss_of(
        teacher, confidence=0.0, network=student, seed=1
    )


def test_dropped_features_change_nothing_where_all_are_kept():
    network, images = UNet(2, (8, 16)).eval(), squares(2).images.float() / 255
    assert torch.equal(network(images, torch.ones(2, 16, 1, 1)), network(images))
    assert not torch.equal(network(images, torch.zeros(2, 16, 1, 1)), network(images))


def test_another_network_than_the_u_net_is_refused():
    config = SegmentationConfig(network="segformer_b0")
    network = build_segmenter(config, 2, seed=0)
    with pytest.raises(ValueError, match="consistency='unimatch' drops features of the U-Net"):
        loss_of(Sure(0.9), network=network)


@pytest.mark.slow
def test_unimatch_makes_use_of_images_without_masks():
    """Two annotated images; the others, of paler squares, are as those that are tested."""
    config = replace(CONFIG, n_steps=150, teacher_decay=0.9, consistency="unimatch", consistency_weight=1.0)
    real, others = squares(2), squares(32, seed=3, contrast=50).images
    scores = [score(train(real, config, seed, unannotated=others), contrast=50) for seed in range(3)]
    alone = [score(train(real, config, seed), contrast=50) for seed in range(3)]
    assert sum(scores) > sum(alone) + 0.1
