"""Bad input of every command ends in one sentence that names the culprit, with status 2, and nothing is written."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sedm.__main__ import COMMANDS as COMMAND_NAMES
from sedm.__main__ import main
from sedm.layouts import EmpiricalPrior
from sedm.styles.bank import StyleBank

SIZE = 32  # px a side, the size at smoke
CLASSES = 'classes = ["glass", "gland"]\n'
VALUES = "[classes]\nglass = 0\ngland = 255\n"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
MASK = np.zeros((SIZE, SIZE), np.uint8)
MASK[8:20, 8:20] = 1


def put(path, pixels, **options):
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)


def sound(folder, toml=CLASSES, image=PIXELS, mask=MASK, annotated="abcd", bare="e"):
    """Write a study without a fault: two images of each of four annotated groups, and of one that is not."""
    for group in (*annotated, *bare):
        for row in range(2):
            put(folder / "images" / group / f"{row}.png", image)
            if group in annotated:
                put(folder / "masks" / group / f"{row}.png", mask)
    (folder / "study.toml").write_text(toml, encoding="utf-8")


def table(folder, name, text, toml=CLASSES):
    """Write a sound study beside which a table of paths says what is read."""
    sound(folder, f'{toml}[data]\nsource = "{name}"\n')
    (folder / name).write_text(text, encoding="utf-8")


LINES = [f"images/{g}/{i}.png,{f'masks/{g}/{i}.png' if g != 'e' else ''},{g}\n" for g in "abcde" for i in range(2)]


def lines(*more, without=(), header="image,mask,group\n"):
    """Write a table of paths as text, without some of its lines."""
    return header + "".join(line for row, line in enumerate(LINES) if row not in without) + "".join(more)


def toml(text):
    """Make a study that differs from a sound one by its file."""
    return lambda mine: sound(mine, text)


def on_top(change, text=CLASSES):
    """Make a sound study, and change its files."""

    def build(mine):
        sound(mine, text)
        change(mine)

    return build


def one_mask(mask, **options):
    """Make a sound study one mask of which is another."""
    return on_top(lambda mine: put(mine / "masks/a/0.png", mask, **options))


def one_image(image, **options):
    """Make a sound study one image of which is another."""
    return on_top(lambda mine: put(mine / "images/a/0.png", image, **options))


def truncate(path):
    """Cut a file."""
    path.write_bytes(path.read_bytes()[:60])


def nested(mine):
    """Write a study with an image two folders deep."""
    sound(mine)
    put(mine / "images" / "site" / "f" / "0.png", PIXELS)


def parts(mine, of=("train", "test"), shared="a"):
    """Write a study in folders of splits."""
    for split in of:
        for group in (f"{split}1", f"{split}2", shared):
            put(mine / split / "images" / group / "0.png", PIXELS)
            put(mine / split / "masks" / group / "0.png", MASK)
    (mine / "study.toml").write_text(CLASSES)


SMOOTH = Image.fromarray(MASK * 255).resize((64, 64), Image.Resampling.BILINEAR).resize((SIZE, SIZE))
COLOURS = np.zeros((SIZE, SIZE, 3), np.uint8)
COLOURS[8:20, 8:20] = 255, 0, 0
DEEP = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)
CLEAR = Image.fromarray(np.dstack([PIXELS, np.full((SIZE, SIZE), 99, np.uint8)]))
PAGES = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
ODD = VALUES.replace("255", "[1, 1.5]")

STUDIES = {  # what is wrong with a study → how it is made, and the sentence
    "no classes": (toml("title = 'mine'\n"), "study.toml, key 'classes': None; name the classes"),
    "no TOML": (toml("title = mine\n"), r"study.toml: no TOML \(.*line 1"),
    "a key that is misspelt": (toml(f"clases = 3\n{CLASSES}"), "study.toml: key='clases'.*did you mean 'classes'"),
    "a text that is a number": (toml(f"title = 3\n{CLASSES}"), "study.toml, key 'title': 3; give a text"),
    "true in quotes": (toml(f"stained = 'no'\n{CLASSES}"), "key 'stained': 'no'; give true or false"),
    "a setting that there is not": (
        toml(f"{CLASSES}[presets.smoke]\ntraining.n_step = 3\n"),
        r"study.toml, key 'presets.smoke.training': setting='n_step'.*did you mean 'n_steps'",
    ),
    "a setting of another kind": (
        toml(f"{CLASSES}[presets.smoke]\ntraining.n_steps = 'ten'\n"),
        "study.toml, key 'presets.smoke.training.n_steps': 'ten'; give a value as",
    ),
    "a setting that is not a number": (
        toml(f"{CLASSES}[presets.smoke]\ntraining.learning_rate = nan\n"),
        "study.toml, key 'presets.smoke.training': learning_rate=nan; it must be",
    ),
    "a section that is one number": (
        toml(f"{CLASSES}[presets.smoke]\nlayouts.learned = 3\n"),
        "study.toml, key 'presets.smoke.layouts.learned': 3; give settings",
    ),
    "a folder that is not there": (
        toml(f'{CLASSES}[data]\nimages = "fotos"\n'),
        "no folder images='fotos' in it",
    ),
    "a source that is not there": (toml(f'{CLASSES}[data]\nsource = "scans"\n'), "mine/scans: no such file or folder"),
    "a source that is a number": (toml(f"{CLASSES}[data]\nsource = 3\n"), "study.toml, key 'data': source=3; give"),
    "a key of data that is misspelt": (
        toml(f'{CLASSES}[data]\nmask_kinds = "instances"\n'),
        "study.toml, key 'data': key='mask_kinds'.*did you mean 'mask_kind'",
    ),
    "two classes of one value": (
        toml("[classes]\nglass = 0\ngland = [255, 0]\n"),
        "study.toml, key 'data': .*0.*'glass'.*'gland'",
    ),
    "a class without a value": (toml("[classes]\nglass = 0\ngland = []\n"), "key 'data': class 'gland' has no values"),
    "a class value that is no number": (toml(ODD), r"study.toml, key 'data': .*1\.5"),
    "a fit that there is not": (toml(f"fit = 'stretch'\n{CLASSES}"), "key 'fit': 'stretch'; choose one of crop"),
    "a split of groups that there are not": (
        toml(f'{CLASSES}[splits]\ntest = ["z"]\n'),
        "mine: no annotated group 'z' to be held out; there are a, b, c, d",
    ),
    "test groups as one word": (
        toml(f'{CLASSES}[splits]\ntest = "ab"\n'),
        r"study.toml, key 'splits': test='ab'; give a list of groups",
    ),
    "test groups as numbers": (
        toml(f"{CLASSES}[splits]\ntest = [1]\n"),
        r"study.toml, key 'splits': test=\[1\]; give a list of groups",
    ),
    "a seed that is a text": (toml(f'{CLASSES}[splits]\nseed = "x"\n'), "study.toml, key 'splits': seed='x'; give"),
    "a column that is a number": (toml(f"{CLASSES}[splits]\ncolumn = 3\n"), "key 'splits': column=3; give"),
    "all groups tested on": (
        toml(f'{CLASSES}[splits]\ntest = ["a", "b", "c", "d"]\n'),
        "mine: of 4 annotated groups none is left to train on; name fewer",
    ),
    "a group in two splits": (
        toml(f'{CLASSES}[splits]\ntest = ["a"]\nvalidation = ["a"]\n'),
        "mine: a group is named for validation and for test, or twice",
    ),
    "a fraction of all": (toml(f"{CLASSES}[splits]\ntest_fraction = 1.0\n"), "key 'splits': test_fraction=1.0; give"),
    "a split column that is not there": (
        toml(f'{CLASSES}[splits]\ncolumn = "fold"\n'),
        "no column 'fold' of splits; it has",
    ),
    "one annotated group": (
        lambda mine: sound(mine, annotated="a", bare="bcde"),
        "mine: people annotated 1 group; at least two are needed",
    ),
    "no annotated group": (
        lambda mine: sound(mine, annotated="", bare="abcde"),
        "mine: people annotated 0 groups; at least two are needed",
    ),
    # ---------------------------------------------------------------------------------------------- pictures
    "not a picture": (
        on_top(lambda mine: (mine / "images/a/0.png").write_text("hello")),
        r"images/a/0.png\): unreadable image bytes",
    ),
    "an empty picture": (
        on_top(lambda mine: (mine / "images/a/0.png").write_bytes(b"")),
        r"images/a/0.png\): unreadable image bytes",
    ),
    "a truncated picture": (on_top(lambda mine: truncate(mine / "images/a/0.png")), "images/a/0.png.*truncated"),
    "a truncated mask": (on_top(lambda mine: truncate(mine / "masks/a/0.png")), "masks/a/0.png.*truncated"),
    "a mask of another size": (one_mask(MASK[:, :16]), "masks/a/0.png.*16×32"),
    "a value outside the classes": (one_mask(MASK * 7), "masks/a/0.png.*7"),
    "a value that no class has": (
        on_top(lambda mine: put(mine / "masks/a/0.png", MASK * 9), VALUES.replace("255", "1")),
        "masks/a/0.png.*9",
    ),
    "smoothed masks": (one_mask(SMOOTH), "masks/a/0.png.*mask_threshold"),
    "a mask in colours": (one_mask(COLOURS), "masks/a/0.png.*(colour|RGB)"),
    "an image of 16 bits": (one_image(DEEP), "images/a/0.png.*intensity_range"),
    "a transparent image": (one_image(CLEAR), "images/a/0.png.*alpha"),
    "masks in JPEG": (
        on_top(lambda mine: (put(mine / "masks/a/0.jpg", MASK), (mine / "masks/a/0.png").unlink())),
        "masks/a/0.jpg.*JPEG",
    ),
    "several pages": (
        on_top(
            lambda mine: (
                PAGES[0].save(mine / "images/a/0.tif", save_all=True, append_images=PAGES[1:]),
                (mine / "images/a/0.png").unlink(),
            )
        ),
        "images/a/0.tif.*2 frames or pages",
    ),
    "an animation": (
        on_top(
            lambda mine: PAGES[0].save(mine / "images/a/0.png", format="GIF", save_all=True, append_images=PAGES[1:])
        ),
        "images/a/0.png.*2 frames or pages",
    ),
    "images that are no squares": (
        lambda mine: sound(mine, image=PIXELS[:16], mask=MASK[:16]),
        "32×16 px.* no square.*crop",
    ),
    # ------------------------------------------------------------------------------------- files and tables
    "a mask without an image": (
        on_top(lambda mine: put(mine / "masks/a/7.png", MASK)),
        "masks/a/7.png: a mask without an image",
    ),
    "images without a folder": (
        on_top(lambda mine: put(mine / "images/7.png", PIXELS)),
        "images/7.png.*group",
    ),
    "images in nested folders": (nested, "images/site/f/0.png: 2 folders deep in images/.* group_level=1"),
    "an empty folder": (on_top(lambda mine: None, f'{CLASSES}[data]\nsource = "none"\n'), "mine/none: no such file"),
    "no images": (
        lambda mine: (mine.mkdir(), (mine / "study.toml").write_text(CLASSES)),
        "mine: no folder images/ in it",
    ),
    "a spreadsheet without a column": (
        lambda mine: table(mine, "t.csv", lines(header="image,label,group\n")),
        "t.csv.*'mask'.*image, label, group",
    ),
    "run lengths that nobody spoke of": (
        lambda mine: table(mine, "t.csv", lines(f"images/e/1.png,{'1 4 ' * 99}7 1,e\n", without=[9])),
        "t.csv, line 11, column 'mask': '1 4 1 .* run lengths, no paths: say mask_kind='run-lengths'",
    ),
    "a spreadsheet that calls groups otherwise": (
        lambda mine: table(mine, "t.csv", lines(header="image,mask,patient\n")),
        "t.csv: expected the columns image and group, .*; say what they are called: group_column=…",
    ),
    "groups that are told apart by zeros": (
        lambda mine: sound(mine, annotated=["7", "007", "8", "9"]),
        "mine: groups '007' and '7' look like one",
    ),
    "a row without a group": (
        lambda mine: table(mine, "t.csv", lines("images/e/1.png,,\n", without=[9])),
        "t.csv, line 11.*group",
    ),
    "a path that is not there": (
        lambda mine: table(mine, "t.csv", lines("images/f/0.png,,f\n")),
        "t.csv, line 12.*images/f/0.png",
    ),
    "a row twice": (lambda mine: table(mine, "t.csv", lines(LINES[0])), "t.csv, line 12.*images/a/0.png"),
    "a table without rows": (lambda mine: table(mine, "t.csv", "image,mask,group\n"), "t.csv: .*no rows"),
    "a parquet that is a text": (lambda mine: table(mine, "t.parquet", lines()), "t.parquet: not a readable parquet"),
    "a spreadsheet of Excel": (lambda mine: table(mine, "t.xlsx", lines()), "t.xlsx: expected a folder.*CSV"),
    "a split that nobody knows": (
        lambda mine: table(
            mine,
            "t.csv",
            "image,mask,group,fold\n"
            + "".join(f"{line.strip()},{'tset' if '/a/' in line else 'train'}\n" for line in LINES),
            f'{CLASSES}[splits]\ncolumn = "fold"\n',
        ),
        "t.csv, row 0, column 'fold': 'tset'; give train, validation or test",
    ),
    "a group in two folders of splits": (parts, "group 'a' is in two splits, 'test' and 'train'; split by group"),
    "a split without a counterpart": (lambda mine: parts(mine, of=("train", "val"), shared="a"), "no split 'test'"),
    "splits that are named twice": (
        lambda mine: (parts(mine), (mine / "study.toml").write_text(f"{CLASSES}[splits]\ntest_fraction = 0.3\n")),
        "study.toml, key 'splits': .* has the splits test, train already; leave the key out",
    ),
}


@pytest.fixture
def end(tmp_path, monkeypatch, capsys):
    """Run a command in a folder, and return the one line in which it ends."""

    def end_command(*words):
        monkeypatch.chdir(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        capsys.readouterr()
        try:
            status = main(list(words))
        except SystemExit as ended:
            status = ended.code
        assert status == 2
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        if words[0] == "check" and not said.err:
            sentences = [line.removeprefix("fault: ") for line in said.out.splitlines() if line.startswith("fault: ")]
        else:
            sentences = [line for line in said.err.splitlines() if line and "%|" not in line]  # no bars of progress
            assert not said.out
            assert sentences[-1].startswith(f"sedm {words[0]}: ")
        assert len(sentences) == 1, sentences
        return sentences[0]

    return end_command


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("command", ["check", "compare"])
def test_a_study_with_a_fault(tmp_path, end, command, name):
    build, words = STUDIES[name]
    build(tmp_path / "mine")
    said = end("check", "mine") if command == "check" else end("compare", "mine", "--preset", "smoke")
    assert re.search(words, said), said


def test_check_and_compare_say_the_same(tmp_path, end):
    build, _ = STUDIES["one annotated group"]
    build(tmp_path / "mine")
    said = [end(command, "mine").rpartition("mine: ")[2] for command in ("check", "compare")]
    assert said[0] == said[1]


def test_check_lists_every_fault_at_once(tmp_path, capsys, monkeypatch):
    sound(tmp_path / "mine")
    put(tmp_path / "mine/masks/a/0.png", MASK * 7)
    put(tmp_path / "mine/masks/b/1.png", MASK[:, :16])
    put(tmp_path / "mine/images/e/1.png", CLEAR)
    put(tmp_path / "mine/masks/e/9.png", MASK)
    assert main(["check", str(tmp_path / "mine")]) == 2
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault: ")]
    places = ("masks/e/9.png", "masks/a/0.png", "masks/b/1.png", "images/e/1.png")
    assert len(said) == len(places)
    assert all(place in line for place, line in zip(places, said, strict=True))


TRAIN = ("train", "tissue", "--preset", "smoke", "--out", "out")
COMPARE = ("compare", "mine", "--preset", "smoke")
SEGMENT = ("segment", "mine", "--preset", "smoke", "--out", "out", "--runs", "runs")
ABLATE = ("ablate", "tissue", "--preset", "smoke", "--out", "out", "--runs", "runs")
PACK = ("pack", "tissue", "--run", "run", "--figures", "figures", "--out", "out")
DATA = ("data", "ebhi", "mine", "out")
COMMANDS = {  # a wrong word after those of a sound command, and the sentence
    "check: nothing there": (("check", "mune"), "mune: no such file or folder"),
    "check: no study.toml": (("check", "mine/none.toml"), "mine/none.toml: no such file"),
    "check: no word": (("check",), "the following arguments are required: data"),
    "check: a word too many": (("check", "mine", "yours"), "unrecognized arguments: yours"),
    "check: a picture": (("check", "mine/images/a/0.png"), "0.png: expected a folder, .csv"),
    "check: a folder without pictures": (("check", "empty"), "empty: no folder images/ in it; expected"),
    "check: a sheet in no folder": (("check", "mine", "--sheet", "file/check.png"), "--sheet: .*file"),
    "check: a sheet that is a folder": (("check", "mine", "--sheet", "empty"), "--sheet: empty: a folder"),
    "check: a sheet that is no PNG": (
        ("check", "mine", "--sheet", "sheet.docx"),
        "--sheet: sheet.docx: give a name that ends in .png",
    ),
    "compare: a near name": (("compare", "tisue"), r"study='tisue'; .*\(did you mean 'tissue'\?\)"),
    "compare: a study of styles": (("compare", "flowers", "--preset", "smoke"), "'flowers' asks for styles"),
    "compare: no folder": (("compare", "./yours"), "yours: no such file; sedm check --write makes one"),
    "compare: data of one's own twice": ((*COMPARE, "--data", "empty"), "study.toml says where its data lie"),
    "compare: no data": (("compare", "ebhi", "--preset", "smoke"), "'ebhi' needs the folder of its .*--data"),
    "compare: data that is not there": (("compare", "ebhi", "--data", "nowhere"), "nowhere: no such folder"),
    "compare: data without tables": (("compare", "ebhi", "--data", "empty"), "empty: no train.parquet"),
    "compare: a preset": (("compare", "mine", "--preset", "quik"), "argument --preset: invalid choice: 'quik'"),
    "compare: a seed below 0": ((*COMPARE, "--seed", "-1"), "argument --seed: '-1'; give a whole number of 0 or more"),
    "compare: a seed of text": ((*COMPARE, "--seed", "one"), "argument --seed: 'one'; give a whole number"),
    "compare: a seed with a point": ((*COMPARE, "--seed", "1.5"), "argument --seed: '1.5'; give a whole number"),
    "compare: a file for a folder": ((*COMPARE, "--out", "file"), "argument --out: file: a file, but a folder"),
    "compare: below a file": ((*COMPARE, "--out", "file/out"), r"argument --out: file/out: .*file is a file"),
    "compare: among the images": ((*COMPARE, "--out", "mine/images/out"), "--out mine/images/out: .*among the images"),
    "compare: nothing but annotated": (("compare", "told", "--preset", "smoke"), "all 2 training images are annotated"),
    "compare: one class": (("compare", "flat", "--preset", "smoke"), "has the class 'glass' alone; name a background"),
    "train: no steps": ((*TRAIN, "--n-steps", "0"), "argument --n-steps: '0'; give a whole number of 1 or more"),
    "train: steps below 0": ((*TRAIN, "--n-steps", "-5"), "argument --n-steps: '-5'; give a whole number of 1"),
    "train: steps of text": ((*TRAIN, "--n-steps", "nan"), "argument --n-steps: 'nan'; give a whole number of 1"),
    "train: a seed": ((*TRAIN, "--seed", "-1"), "argument --seed: '-1'; give a whole number of 0 or more"),
    "train: a study": (("train", "tisue", "--out", "out"), "study='tisue'; .*did you mean 'tissue'"),
    "train: no study": (("train", "--out", "out"), "required: study"),
    "train: a file for a folder": ((*TRAIN[:-1], "file"), "argument --out: file: a file, but a folder is needed"),
    "train: no model to go on from": ((*TRAIN, "--initial", "nowhere"), "nowhere: no such folder"),
    "train: no model in the folder": ((*TRAIN, "--initial", "empty"), "empty: no model_index.json"),
    "train: a model in the out folder": ((*TRAIN, "--initial", "out/model"), "out/model lies in --out"),
    "train: a model of other classes": (
        (*TRAIN, "--initial", "model"),
        "model has n_classes=2, but 3 is to be trained",
    ),
    "train: data of an embedded study": ((*TRAIN, "--data", "empty"), "'tissue' is embedded: leave --data"),
    "segment: an arm": ((*SEGMENT, "--arms", "sdem"), "arm='sdem'; .*did you mean 'sedm'"),
    "segment: a study of styles": (("segment", "flowers"), "'flowers' asks for styles, not for segmentation"),
    "segment: draws below 0": ((*SEGMENT, "--draws", "-1"), "argument --draws: '-1'; give a whole number of 0"),
    "segment: annotated of text": ((*SEGMENT, "--annotated", "all"), "argument --annotated: 'all'; give a whole"),
    "segment: seeds of text": ((*SEGMENT, "--seeds", "x"), "argument --seeds: 'x'; give a whole number of 0"),
    "segment: no seeds": ((*SEGMENT, "--seeds"), "argument --seeds: expected at least one argument"),
    "segment: more groups than there are": (
        (*SEGMENT, "--arms", "real", "--annotated", "99"),
        "n_annotated_groups=99, but 1 group is annotated",
    ),
    "segment: a file for a folder": ((*SEGMENT, "--runs", "file"), "argument --runs: file: a file, but a folder"),
    "ablate: a variant": ((*ABLATE, "--variants", "botleneck"), "variant='botleneck'; .*did you mean 'bottleneck'"),
    "ablate: a seed": ((*ABLATE, "--seeds", "-1"), "argument --seeds: '-1'; give a whole number of 0 or more"),
    "ablate: no steps": ((*ABLATE, "--n-steps", "0"), "argument --n-steps: '0'; give a whole number of 1 or more"),
    "pack: no figures": (PACK, "figures: no values_training.json; run notebook 03"),
    "pack: a study": (("pack", "tisue", *PACK[2:]), "study='tisue'; .*did you mean 'tissue'"),
    "pack: no run": ((*PACK[:4], "--figures", "values", "--out", "out"), "run: no such folder"),
    "pack: a run without a model": (
        ("pack", "tissue", "--run", "empty", "--figures", "values", "--out", "out"),
        "empty: no model_index.json",
    ),
    "pack: out there already": ((*PACK[:4], "--figures", "values", "--out", "empty"), "empty: exists already"),
    "data: no such data set": (("data", "glas", "mine", "out"), "invalid choice: 'glas'"),
    "data: nothing there": (("data", "ebhi", "nowhere", "out"), "nowhere: no such file or folder"),
    "data: another folder": (DATA, "mine: "),
    "demo: a port of text": (("demo", "--port", "http"), "argument --port: 'http'; give a whole number of 1"),
    "demo: a port too high": (("demo", "--port", "70000"), "--port 70000; the highest is 65535"),
    "no such command": (("chekc", "mine"), "command='chekc'; .*did you mean 'check'"),
}
GENERATE = {
    "model": ({"model": "nowhere"}, "nowhere: no such folder; expected one written by save_pretrained"),
    "model of nothing": ({"model": "empty"}, "empty: no model_index.json"),
    "layouts": ({"layouts": "nowhere"}, "--layouts nowhere: no such file or folder"),
    "layouts of nothing": ({"layouts": "empty"}, "empty: .*parquet"),
    "layouts of other classes": ({"layouts": "other"}, "layouts of 3 classes .*, but a model of 2; take both from"),
    "styles": ({"styles": "nowhere.safetensors"}, "--styles nowhere.safetensors: no such file or folder"),
    "styles that are a text": ({"styles": "text.safetensors"}, "text.safetensors: not a readable safetensors file"),
    "styles that are a model": ({"styles": "model/denoiser/diffusion_pytorch_model.safetensors"}, "not a style bank"),
    "no images": ({"n-images": "0"}, "n_images=0; it must be a whole number of 1 or more"),
    "images below 0": ({"n-images": "-3"}, "n_images=-3; it must be a whole number of 1 or more"),
    "images of text": ({"n-images": "many"}, "argument --n-images/--n: invalid int value: 'many'"),
    "a seed below 0": ({"seed": "-1"}, "argument --seed: '-1'; give a whole number of 0 or more"),
    "no steps": ({"n-steps": "0"}, "n_steps=0; it must be a whole number of 1 or more"),
    "guidance that is no number": ({"guidance-scale": "nan"}, "guidance_scale=nan; it must be 0 or more"),
    "guidance below 0": ({"guidance-scale": "-2"}, "guidance_scale=-2.0; it must be 0 or more"),
    "no style images": ({"n-style-images": "0"}, "n_style_images=0; it must be"),
    "no images at once": ({"micro-batch": "0"}, "micro_batch=0; it must be"),
    "a pairing": ({"pairing": "randum"}, "pairing='randum'; .*did you mean 'random'"),
    "sources of styles": ({"style-sources": "un"}, "style_sources='un'; choose one of"),
    "a file for a folder": ({"out": "text.safetensors"}, "argument --out: text.safetensors: a file, but a folder"),
    "a study": ({"study": "tisue"}, "study='tisue'; .*did you mean 'tissue'"),
}


@pytest.fixture
def place(tmp_path, pipeline):
    """A folder with what the words of commands name."""
    sound(tmp_path / "mine")
    sound(tmp_path / "told", bare="")
    sound(tmp_path / "flat", 'classes = ["glass"]\n', mask=0 * MASK)
    (tmp_path / "empty").mkdir()
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / "values_training.json").write_text("{}")
    (tmp_path / "file").write_text("text")
    pipeline.save_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_word(place, end, name):
    arguments, words = COMMANDS[name]
    said = end(*arguments)
    assert re.search(words, said), said


@pytest.mark.parametrize("name", GENERATE)
def test_a_wrong_part_to_generate_from(place, end, tmp_path, pipeline, patches, name):
    changes, words = GENERATE[name]
    masks = patches.annotated().masks
    EmpiricalPrior.fit_masks(masks, patches.classes).save(tmp_path / "prior")
    EmpiricalPrior.fit_masks(masks, (*patches.classes, "lumen")).save(tmp_path / "other")
    StyleBank(pipeline.embed(patches.images), patches.groups, list(map(str, range(16)))).save(
        tmp_path / "bank.safetensors"
    )
    (tmp_path / "text.safetensors").write_text("text")
    options = {"model": "model", "layouts": "prior", "styles": "bank.safetensors", "n-images": "4", "seed": "0"}
    options |= {"preset": "smoke", "out": "out"} | changes
    said = end("generate", *(word for option, value in options.items() for word in (f"--{option}", value)))
    assert re.search(words, said), said


@pytest.mark.parametrize("command", sorted(COMMAND_NAMES))
def test_help_explains_every_option_and_ends_in_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"example: sedm {command}" in " ".join(text.split())
    options = re.findall(r"^  (-.*|[a-z]+.*)$", text.partition("\n\n")[2], re.MULTILINE)
    assert options
    entries = re.findall(r"^  (?=\S)(.*(?:\n {4,}\S.*)*)", text, re.MULTILINE)
    assert [entry for entry in entries if not re.search(r"  +\S|\n", entry)] == []


def test_usage_is_told_before_torch_is_imported():
    code = "import sys; from sedm.__main__ import main; status = main(['train', 'tisue', '--out', 'x'])"
    code += "; print(status, *({'torch', 'datasets', 'diffusers', 'pandas'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "2"
