"""From style images to one style: backbones, and what each aggregation promises about sets of images."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.testing import assert_close

from sedm.config import N_COLOURS, ModelConfig
from sedm.styles.aggregation import AGGREGATIONS, AttentionPool
from sedm.styles.backbones import _moments, open_backbone
from sedm.styles.encoder import StyleEncoder

N_CLASSES = 3
ANY_NUMBER = ["mean", "max", "attention"]  # also those that know padding
ANY_ORDER = ANY_NUMBER


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomised(module):
    """The module with every weight drawn anew, so that none is at a special value."""
    with torch.no_grad():
        for i, weights in enumerate(module.parameters()):
            weights.copy_(torch.randn(weights.shape, generator=generator(i)))
    return module


def settings(aggregation="mean", **changes):
    """Of a small convolutional encoder that makes a style of five images."""
    injection = {"tokens": "cross_attention", "by_class": "class_film"}.get(aggregation, "film")
    options = {"style_channels": (8, 8), "style_dim": 8, "n_style_images": 5} | changes
    return ModelConfig(aggregation=aggregation, style_injection=injection, **options)


def aggregation_of(name, dim=12):
    return AGGREGATIONS[name](settings(name, style_dim=dim), N_CLASSES)


def encoder(aggregation):
    """Of the convolutional backbone; attention's queries are zero at the start, so here they are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = StyleEncoder(settings(aggregation), N_CLASSES if aggregation == "by_class" else 0)
    randomised(model.aggregate)
    return model.eval()


@pytest.fixture
def images():
    """Style images of two rows, five each, in [−1, 1]."""
    return torch.rand(2, 5, 3, 16, 16, generator=generator()) * 2 - 1


@pytest.fixture
def embeddings():
    """Those of three items with five images each."""
    return torch.randn(3, 5, 12, generator=generator())


@pytest.fixture
def present():
    """All five images, two of them, one."""
    return torch.tensor([[True] * 5, [False, True, False, True, False], [False, False, True, False, False]])


# -------------------------------------------------------------------------------------------- sets of images


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_style_is_one_token_or_one_an_image_or_one_a_class(aggregation, images):
    assert encoder(aggregation)(images).shape == (2, {"tokens": 5, "by_class": 1 + N_CLASSES}.get(aggregation, 1), 8)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_order_of_style_images_does_not_matter_where_that_is_promised(aggregation, images):
    model = encoder(aggregation)
    order = [3, 0, 4, 1, 2]
    style, permuted = model(images), model(images[:, order])
    if aggregation == "tokens":
        assert_close(permuted, style[:, order])
    else:
        assert permuted.allclose(style, atol=1e-5) == (aggregation in (*ANY_ORDER, "by_class"))


@pytest.mark.parametrize("aggregation", [*ANY_NUMBER, "by_class"])
def test_showing_the_same_images_again_does_not_change_the_style_but_leaving_one_out_does(aggregation, images):
    model = encoder(aggregation)
    assert_close(model(images.repeat(1, 3, 1, 1, 1)), model(images))
    assert not model(images[:, :4]).allclose(model(images))


@pytest.mark.parametrize("aggregation", [*ANY_NUMBER, "tokens"])
def test_the_style_of_one_image_is_its_embedding(aggregation, embeddings):
    model = randomised(aggregation_of(aggregation))
    assert model(embeddings[:, :1]).equal(embeddings[:, :1])


@pytest.mark.parametrize(("aggregation", "expected"), [("mean", np.mean), ("max", np.max)])
def test_a_style_is_what_its_aggregation_is_called(aggregation, expected, images):
    model = encoder(aggregation).requires_grad_(False)
    separate = np.stack([model.embed(row).numpy() for row in images])
    assert_close(model(images).numpy(), expected(separate, axis=1, keepdims=True))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_style_does_not_depend_on_the_other_rows(aggregation, images):
    model = encoder(aggregation)
    assert_close(model(images)[:1], model(images[:1]))


def test_a_linear_style_is_a_sum_of_one_map_an_image(embeddings):
    model = randomised(aggregation_of("linear"))
    maps = model.map.weight.view(12, 5, 12)
    expected = sum(embeddings[:, i] @ maps[:, i].T for i in range(5)) + model.map.bias
    assert_close(model(embeddings), expected[:, None])


def test_tokens_are_the_embeddings_so_a_bank_of_them_is_enough(images):
    model = encoder("tokens")
    bank = model.embed(images.flatten(0, 1))  # one row an image, as in a style bank
    assert_close(model.aggregate(bank[torch.arange(10).view(2, 5)]), model(images))


# -------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("aggregation", ANY_NUMBER)
def test_padding_is_as_if_it_were_not_there(aggregation, embeddings, present):
    model = randomised(aggregation_of(aggregation))
    expected = torch.cat([model(row[shown][None]) for row, shown in zip(embeddings, present, strict=True)])
    assert_close(model(embeddings, present), expected)
    assert model(embeddings, torch.ones(3, 5, dtype=torch.bool)).equal(model(embeddings))


@pytest.mark.parametrize("garbage", [1e30, float("nan"), -float("inf")])
@pytest.mark.parametrize("aggregation", [*ANY_NUMBER, "by_class"])
def test_what_padding_holds_reaches_neither_style_nor_gradients(aggregation, garbage, images):
    present = torch.tensor([[True, False, True, True, False], [False, True, False, False, False]])
    model = encoder(aggregation)

    def style_and_gradients(padding):
        shown = images.clone()
        shown[~present] = padding
        shown.requires_grad_()
        model.zero_grad()
        style = model(shown, present)
        (style * torch.arange(16.0).view(2, 1, 8)).sum().backward()
        return style, shown.grad, [weights.grad for weights in model.parameters()]

    style, of_images, of_weights = style_and_gradients(garbage)
    expected_style, expected_of_images, expected_of_weights = style_and_gradients(0.5)
    assert style.equal(expected_style)
    assert of_images.equal(expected_of_images)
    assert all(map(torch.equal, of_weights, expected_of_weights))
    assert not of_images[~present].any()
    assert of_images[present].flatten(1).any(dim=1).all()


@pytest.mark.parametrize("aggregation", [name for name in AGGREGATIONS if name != "by_class"])
def test_an_item_without_any_image_is_named(aggregation, embeddings, present):
    model = aggregation_of(aggregation)
    with pytest.raises(ValueError, match=r"without any style image|fewer style images"):
        model(embeddings, present & torch.tensor([[True], [False], [True]]))
    with pytest.raises(ValueError, match="without any style image"):
        model(embeddings[:, :0])


@pytest.mark.parametrize("aggregation", ["linear", "tokens"])
def test_padding_is_refused_where_it_could_not_be_told_apart(aggregation, embeddings, present):
    with pytest.raises(ValueError, match=r"an item with fewer style images than others; .* needs them all"):
        aggregation_of(aggregation)(embeddings, present)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_linear_takes_as_many_images_as_it_was_made_for(n, images):
    model = encoder("linear")
    images = images.repeat(1, 2, 1, 1, 1)[:, :n]
    with pytest.raises(ValueError, match=f"{n} style images; 'linear' aggregates exactly 5, as in training"):
        model(images)


# -------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("dim", [12, 7, 16])
def test_attention_is_that_of_torch_with_learned_queries(dim, present):
    model = randomised(AttentionPool(dim))
    embeddings = torch.randn(3, 5, dim, generator=generator())
    n_heads = len(model.queries)
    assert n_heads == {12: 4, 7: 1, 16: 8}[dim]
    values = embeddings.view(3, 5, n_heads, -1).transpose(1, 2)
    expected = F.scaled_dot_product_attention(
        model.queries[None, :, None].expand(3, -1, -1, -1),  # batch, heads, 1, dim
        embeddings[:, None].expand(-1, n_heads, -1, -1),
        values,
        attn_mask=present[:, None, None],
    )
    assert_close(model(embeddings, present), expected.reshape(3, 1, dim))


def test_attention_weights_sum_to_one_over_the_images_that_are_there(embeddings, present):
    weights = randomised(AttentionPool(12)).weigh(embeddings, present)
    assert_close(weights.sum(dim=1), torch.ones(3, 4))
    assert not weights[~present].any()
    assert weights[0].max() > 0.5  # far from the fifth that an average gives each
    assert not weights[0, :, 0].allclose(weights[0, :, 1])  # each head its own


def test_untrained_attention_is_the_mean_and_learns_which_image_counts(embeddings):
    model = AttentionPool(12)
    assert_close(model(embeddings), embeddings.mean(dim=1, keepdim=True))
    marked = torch.tensor([2, 0, 4])
    embeddings[..., 0] = 3.0 * F.one_hot(marked, 5)
    wanted = embeddings[torch.arange(3), marked][:, None]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.5)
    for _ in range(100):
        optimiser.zero_grad()
        F.mse_loss(model(embeddings), wanted).backward()
        optimiser.step()
    assert_close(model(embeddings), wanted, rtol=0, atol=0.1)


# -------------------------------------------------------------------------------------------- by class


def test_features_and_colours_of_classes_are_weighted_moments_over_their_pixels(images):
    """Compared with a loop over classes in float64; the whole image comes first."""
    backbone = encoder("by_class").features.requires_grad_(False)
    features, colours, logits = backbone.by_class(images[0])
    first = backbone.convolutions[0](images[0])
    second = backbone.convolutions[1](first)
    coarse = F.interpolate(backbone.class_maps[1](second), first.shape[2:])
    assert_close(logits, backbone.classes(backbone.class_maps[0](first) + coarse))
    shares = logits.softmax(dim=1)
    assert_close(features[:, 0], backbone(images[0]))
    assert backbone.by_class(images[0, :, :, :13, :15])[0].shape == features.shape  # of odd sizes
    for token in range(1 + N_CLASSES):
        expected = []
        for maps in (F.avg_pool2d(images[0], 2), first, second):
            whole = torch.ones_like(shares[:, :1])
            weight = torch.cat([whole, shares], dim=1)[:, token, None].double()
            if maps.shape[2] > weight.shape[2]:
                weight = weight.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            weight = F.avg_pool2d(weight, weight.shape[2] // maps.shape[2])
            weight = weight / weight.sum(dim=(2, 3), keepdim=True)
            mean = (weight * maps).sum(dim=(2, 3))
            variance = (weight * (maps - mean[..., None, None]).square()).sum(dim=(2, 3))
            expected.append(torch.cat([mean, (variance + 1e-6).sqrt()], dim=1).float())
        assert_close(colours[:, token], expected[0], rtol=1e-4, atol=1e-4)
        assert_close(features[:, token], torch.cat(expected[1:], dim=1), rtol=1e-4, atol=1e-4)


def test_moments_of_large_maps_are_those_of_the_pixels_that_are_sampled():
    """Planted: stripes three pixels wide, whose classes have one value each, must not mix."""
    shares = torch.zeros(1, 2, 96, 128)
    shares[:, 0] = ((torch.arange(128) // 3) % 2 == 0).float()
    shares[:, 1] = 1 - shares[:, 0]
    maps = 1 * shares[:, :1] + 5 * shares[:, 1:]
    of_whole, *of_classes = _moments(maps, shares)[0]
    assert_close(torch.stack(of_classes), torch.tensor([[1.0, 0.0], [5.0, 0.0]]), rtol=0, atol=0.01)
    assert_close(of_whole, torch.tensor([3.0, 2.0]), rtol=0, atol=0.05)


def test_every_token_begins_with_the_plain_colours_of_its_class(images):
    model = encoder("by_class").requires_grad_(False)
    _, colours, logits = model.features.by_class(images[0])
    embeddings, class_logits = model.embed_and_classify(images[0])
    assert class_logits.equal(logits)
    tokens, shares = embeddings[:, :-N_CLASSES].unflatten(1, (1 + N_CLASSES, -1)), embeddings[:, -N_CLASSES:]
    assert tokens[..., :N_COLOURS].equal(colours)
    assert_close(shares, logits.softmax(dim=1).mean(dim=(2, 3)))
    assert_close(colours[:, 0, :3], images[0].mean(dim=(2, 3)))


def test_how_many_classes_there_are_must_be_said():
    with pytest.raises(ValueError, match="n_classes=0; aggregation='by_class' must know"):
        StyleEncoder(settings("by_class"))


def test_a_class_counts_by_the_share_of_the_image_that_it_covers(present):
    """By a loop over images; an absent image may hold anything."""
    pool = aggregation_of("by_class", dim=8)
    tokens = torch.randn(3, 5, 1 + N_CLASSES, 8, generator=generator())
    shares = torch.rand(3, 5, N_CLASSES, generator=generator(1))
    shares[1, :, 2] = 0  # no image shows it
    embeddings = torch.cat([tokens.flatten(2), shares], dim=2)
    embeddings[~present] = torch.nan
    style = pool(embeddings, present)
    for item in range(3):
        there = [image for image in range(5) if present[item, image]]
        whole = tokens[item, there, 0].mean(dim=0)
        assert_close(style[item, 0], whole)
        for k in range(N_CLASSES):
            share = shares[item, there, k, None]
            if share.sum() == 0:
                assert_close(style[item, 1 + k], whole)
            else:
                mean = (share * tokens[item, there, 1 + k]).sum(dim=0) / share.sum()
                assert_close(style[item, 1 + k], mean, rtol=0, atol=0.05)


def test_the_look_of_classes_ignores_where_things_are(images):
    model = encoder("by_class")
    inner = F.pad(images[:1, 0, :, 4:12, 4:12], (28, 28, 28, 28))
    shifted = F.pad(images[:1, 0, :, 4:12, 4:12], (20, 36, 36, 20))  # by whole strides, away from the border
    assert_close(model.embed(inner), model.embed(shifted), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style_backbone": "swinv2"}, "only 'convolutional' tells the classes"),
        ({"style_dim": 6}, "style_dim=6; 'by_class' keeps 6"),
        ({"style_injection": "film"}, "go together"),
    ],
)
def test_settings_that_cannot_tell_classes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**({"aggregation": "by_class", "style_injection": "class_film"} | changes))


# -------------------------------------------------------------------------------------------- convolutional backbone


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradients_reach_every_weight_of_encoder_and_aggregation(aggregation, images):
    model = encoder(aggregation).train()
    style = model(images)
    (style * torch.randn(style.shape, generator=generator())).sum().backward()
    assert [name for name, weights in model.named_parameters() if weights.grad is None or not weights.grad.any()] == []


def test_an_embedding_ignores_where_things_are_but_not_their_colour(images):
    model = encoder("mean")
    flat = torch.zeros(1, 3, 16, 16)
    assert not model.embed(flat).allclose(model.embed(flat + 0.5))
    assert not model.embed(images[0]).allclose(model.embed(images[0].roll(1, dims=1)))
    inner = F.pad(images[:1, 0, :, 4:12, 4:12], (12, 12, 12, 12))
    shifted = F.pad(images[:1, 0, :, 4:12, 4:12], (4, 20, 20, 4))  # by whole strides, away from the border
    assert_close(model.embed(inner), model.embed(shifted), rtol=0, atol=1e-5)


def test_an_unknown_aggregation_is_named():
    with pytest.raises(ValueError, match=r"aggregation='means'; choose one of mean, max, .*did you mean 'mean'\?"):
        ModelConfig(aggregation="means")


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_saved_encoder_comes_back(aggregation, images, tmp_path):
    model = encoder(aggregation)
    model.save_pretrained(tmp_path)
    assert StyleEncoder.from_pretrained(tmp_path)(images).equal(model(images))


# -------------------------------------------------------------------------------------------- transformers backbones


SMALL = {
    "swinv2": {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},  # any image size; batch norms
    "segformer": {"hidden_sizes": [8, 8, 8, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4},  # no pooler
    "dinov2": {  # a mask token, and an input size that no patch of ours has
        **{"image_size": 28, "patch_size": 14, "hidden_size": 16},
        **{"num_hidden_layers": 1, "num_attention_heads": 2},
    },
}


def small_model(kind):
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **SMALL[kind])).eval()
    for name, buffer in model.named_buffers():  # as after training: running statistics that are not those of noise
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand(buffer.shape, generator=generator()) / 10)
    return model


@pytest.fixture
def swin_folder(tmp_path):
    small_model("swinv2").save_pretrained(tmp_path / "swin")
    return tmp_path / "swin"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_a_folder_gives_the_features_of_its_model(kind, tmp_path):
    model = small_model(kind)
    model.save_pretrained(tmp_path)
    size = getattr(model.config, "image_size", 32)
    images = torch.rand(2, 3, size, size, generator=generator()) * 2 - 1
    output = model(pixel_values=images)
    features = open_backbone(str(tmp_path))(images)
    if kind == "segformer":
        assert_close(features, output.last_hidden_state.mean(dim=(2, 3)))
    else:
        assert_close(features, output.pooler_output.reshape(2, -1))


@pytest.fixture
def larger():
    """Style images as large as these backbones need."""
    return torch.rand(2, 3, 3, 40, 40, generator=generator()) * 2 - 1


@pytest.mark.parametrize("kind", SMALL)
def test_training_reaches_every_weight_without_chance_and_without_the_other_images(kind, larger, tmp_path):
    small_model(kind).save_pretrained(tmp_path)
    model = StyleEncoder(settings(style_backbone=str(tmp_path))).train()
    style = model(larger)
    (style * torch.randn(style.shape, generator=generator())).sum().backward()
    assert [name for name, weights in model.named_parameters() if weights.grad is None or not weights.grad.any()] == []
    assert style.equal(model(larger))  # no dropout, no stochastic depth
    assert_close(model(larger[:1]), style[:1])


@pytest.mark.parametrize("kind", SMALL)
def test_an_encoder_comes_back_when_the_folder_of_its_backbone_is_gone(kind, larger, tmp_path):
    small_model(kind).save_pretrained(tmp_path / "backbone")
    standard = {"image_mean": [0.7, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}
    (tmp_path / "backbone" / "preprocessor_config.json").write_text(json.dumps(standard))
    model = StyleEncoder(settings("attention", style_backbone=str(tmp_path / "backbone"))).eval()
    expected = model(larger)
    (tmp_path / "backbone").rename(tmp_path / "elsewhere")
    model.save_pretrained(tmp_path / "saved")
    assert StyleEncoder.from_pretrained(tmp_path / "saved")(larger).equal(expected)


def test_colours_are_standardised_as_the_folder_says(swin_folder):
    images = torch.rand(2, 3, 32, 32, generator=generator()) * 2 - 1
    plain = open_backbone(str(swin_folder))
    stated = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (swin_folder / "preprocessor_config.json").write_text(json.dumps(stated))
    shares = images / 2 + 0.5
    by_hand = torch.stack([(shares[:, c] - stated["image_mean"][c]) / stated["image_std"][c] for c in range(3)], dim=1)
    assert_close(open_backbone(str(swin_folder))(images), plain(by_hand))
    (swin_folder / "preprocessor_config.json").write_text(json.dumps(stated | {"do_normalize": False}))
    assert open_backbone(str(swin_folder))(images).equal(plain(images))


def test_images_are_resized_to_what_the_backbone_was_made_for(swin_folder):
    backbone = open_backbone(str(swin_folder))
    sizes = []
    backbone.network.register_forward_pre_hook(
        lambda _, __, given: sizes.append(tuple(given["pixel_values"].shape)), with_kwargs=True
    )
    ramp = torch.linspace(-0.9, 0.9, 16).expand(1, 3, 16, 16)
    fine = F.interpolate(ramp, (32, 32), mode="bilinear")
    assert_close(backbone(ramp), backbone(fine))
    backbone(torch.zeros(1, 3, 50, 20))
    assert sizes == [(1, 3, 32, 32)] * 3


def test_a_model_type_starts_from_random_weights_that_the_seed_decides(monkeypatch, larger, tmp_path):
    transformers = pytest.importorskip("transformers")
    standard = transformers.Swinv2Config.__init__
    # the standard size, made small
    monkeypatch.setattr(transformers.Swinv2Config, "__init__", lambda self, **k: standard(self, **SMALL["swinv2"] | k))
    models = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(StyleEncoder(settings(style_backbone="swinv2")).eval())
    first, again, other = (model(larger) for model in models)
    assert first.equal(again)
    assert not first.allclose(other)
    monkeypatch.undo()
    models[0].save_pretrained(tmp_path)
    assert StyleEncoder.from_pretrained(tmp_path)(larger).equal(first)


def test_weights_stored_in_half_precision_are_used_in_single(tmp_path):
    small_model("swinv2").half().save_pretrained(tmp_path)
    model = StyleEncoder(settings(style_backbone=str(tmp_path)))
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "saved")
    assert StyleEncoder.from_pretrained(tmp_path / "saved").dtype == torch.float32


def test_a_wrong_name_meets_the_near_ones():
    with pytest.raises(ValueError, match=r"backbone='swinv3'; give 'convolutional', a folder .*'swinv2', 'swin'"):
        StyleEncoder(settings(style_backbone="swinv3"))
    with pytest.raises(ValueError, match=r"backbone='/no/such/folder'; give 'convolutional', a folder"):
        StyleEncoder(settings(style_backbone="/no/such/folder"))


def test_a_folder_that_holds_no_whole_model_is_named(swin_folder, tmp_path):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    weights = swin_folder / "model.safetensors"
    tensors = load_file(weights)
    missing = "encoder.layers.0.blocks.0.intermediate.dense.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != missing}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"swin': 1 weights .* are missing, such as {missing}"):
        open_backbone(str(swin_folder))
    weights.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="swin': no model of transformers can be read there"):
        open_backbone(str(swin_folder))
    weights.unlink()
    with pytest.raises(ValueError, match="swin': no model of transformers can be read there"):
        open_backbone(str(swin_folder))
    (swin_folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="swin': no model of transformers can be read there"):
        open_backbone(str(swin_folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty': no model of transformers can be read there"):
        open_backbone(str(tmp_path / "empty"))


def test_a_model_of_text_is_no_backbone(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    text = transformers.BertConfig(vocab_size=9, **sizes)
    transformers.BertModel(text).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertModel takes input_ids, not images"):
        open_backbone(str(tmp_path))
