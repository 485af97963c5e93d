"""The README's Python runs word for word, on images of a stranger, only shorter."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import sedm
from sedm import build_config
from sedm.__main__ import main


@pytest.fixture
def code(root):
    """The Python of a section of the README, by its heading."""
    sections = re.split(r"^## (.+)\n", (root / "README.md").read_text(), flags=re.MULTILINE)[1:]
    sections = dict(zip(sections[::2], sections[1::2], strict=True))
    return {name: "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)) for name, text in sections.items()}


def draw_slides(folder):
    """Five patients of four pictures that are no squares; the first is not annotated."""
    random = np.random.default_rng(0)
    for patient in "abcde":
        for number in range(4):
            mask = np.zeros((64, 80), np.uint8)
            row, column = random.integers(0, 40, 2)
            mask[row : row + 24, column : column + 24] = 255
            image = random.integers(120, 200, (64, 80, 3)) - 60 * (mask[..., None] > 0)
            for kind, pixels in (("images", image.astype(np.uint8)), ("masks", mask)):
                if kind == "images" or patient != "a":
                    path = folder / kind / patient / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)


@pytest.mark.slow
def test_ones_own_images_go_from_a_folder_to_an_answer(code, tmp_path, monkeypatch, capsys):
    def build_short(study, preset):
        config = build_config(study, "smoke")
        return replace(
            config,
            data=replace(config.data, image_size=build_config(study, preset).data.image_size),
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sedm, "build_config", build_short, raising=False)
    draw_slides(tmp_path / "my_slides")
    assert main(["check", "my_slides", "--write"]) == 0
    file = tmp_path / "my_slides" / "study.toml"
    text = file.read_text().replace("test_fraction = 0.4", "test_fraction = 0.25")
    file.write_text(text.replace("foreground", "tumour"))
    names = {}
    exec(code["Your own data"].replace("n_images=1000", "n_images=6"), names)
    exec(code["New layouts"], names)
    data, pairs = names["data"], names["pairs"]
    train = data.train
    assert sum(map(len, data.patches.values())) == 20
    assert (len(data.held_out_groups), data.held_out_groups & set(train.groups)) == (2, set())
    assert set(pairs.mask_source) == {"generated"}
    assert set(pairs.groups) == {"a"}  # nobody annotated it, and it lends its style
    assert capsys.readouterr().out.count("mean_iou") == 2
    assert (tmp_path / "my_report" / "report.html").is_file()
    assert ((names["layouts"] == 1).float().mean((1, 2)) - 0.3).abs().max() < 1 / 64
    assert names["words"].sample(1, seed=0).shape == (1, 128, 128)
