"""Public archives: downloads survive whatever happens to them, and the tables hold what the archives hold."""

import hashlib
import http.server
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import scipy.io
from huggingface_hub import DatasetCard
from PIL import Image

from sedm.commands.data_command import main as make_tables
from sedm.config import build_config
from sedm.data.archives import download, ebhi, flowers102
from sedm.data.archives.download import DownloadError, RemoteFile, fetch, figshare_files
from sedm.data.patch_table import PatchTableError, check_patches, load_patches
from sedm.data.reduce import reduce_mask
from sedm.data.splits import check_splits
from sedm.data.study_data import load_study

CONTENT = random.Random(0).randbytes(600_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


def fault(kind, call, *arguments, **options) -> str:
    """The one line in which a call ends."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------------------------- downloads


class Handler(http.server.BaseHTTPRequestHandler):
    """A server of CONTENT whose manners are its first path component; it notes every Range it is asked for."""

    def do_GET(self):
        manners = self.path.split("/")[1]
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.server.asked.append(start)
        if manners == "redirect":
            self.send_response(302)
            self.send_header("Location", "/ranges/file")
            return self.end_headers()
        if manners in ("404", "503", "202"):
            self.send_response(int(manners))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if manners == "json":
            start, content = 0, self.server.json.encode()
        else:
            content = CONTENT[::-1] if manners == "wrong" else CONTENT
        if manners == "ignores":
            start = 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if manners == "drops" or (manners == "drops_twice" and len(self.server.asked) < 3):
            rest = rest[: len(rest) // 2]
        for first in range(0, len(rest), 20_000):
            self.wfile.write(rest[first : first + 20_000])
            if manners == "slow":
                time.sleep(0.1)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A running server; ``server.asked`` holds the first byte of each request."""
    monkeypatch.setattr(download, "WAIT", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.json = [], ""
        server.daemon_threads, server.handle_error = True, lambda *_: None
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remote(server, manners, checksum=MD5):
    return RemoteFile(f"http://127.0.0.1:{server.server_port}/{manners}/file", "a.bin", checksum, len(CONTENT))


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_is_fetched_once(server, tmp_path, algorithm):
    file = remote(server, "ranges", f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}")
    for _ in range(2):
        assert fetch([file], tmp_path / "new") == [tmp_path / "new" / "a.bin"]
        assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
        assert names(tmp_path / "new") == ["a.bin"]
    assert server.asked == [0]


@pytest.mark.parametrize("manners", ["ranges", "redirect"])
def test_a_partial_download_goes_on_from_its_end(server, tmp_path, manners):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:200_001])
    fetch([remote(server, manners)], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert set(server.asked) == {200_001}


def test_a_server_that_ignores_ranges_sends_the_whole_file(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:200_001])
    fetch([remote(server, "ignores")], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [200_001]


def test_a_broken_connection_is_taken_up_again(server, tmp_path):
    fetch([remote(server, "drops_twice")], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    first, second, third = server.asked
    assert first == 0
    assert 300_000 - download.CHUNK < second <= 300_000  # the chunk in flight is asked for again
    assert 450_000 - download.CHUNK < third <= 450_000


def test_a_connection_that_keeps_breaking_leaves_what_came(server, tmp_path):
    message = fault(DownloadError, fetch, [remote(server, "drops")], tmp_path)
    part = (tmp_path / "a.bin.part").read_bytes()
    assert names(tmp_path) == ["a.bin.part"]
    assert CONTENT.startswith(part)
    assert len(part) > 0.9 * len(CONTENT)
    assert f"broke 5 times; {len(part)} bytes are kept in {tmp_path / 'a.bin.part'}" in message


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        (CONTENT[::-1][:200_001], [200_001, 0]),  # of an earlier version
        (CONTENT + b"more", [600_004, 0]),
        (CONTENT, [600_000]),  # killed just before the file got its name
        (b"", [0]),
    ],
)
def test_a_part_that_does_not_fit_is_started_over(server, tmp_path, part, asked):
    (tmp_path / "a.bin.part").write_bytes(part)
    fetch([remote(server, "ranges")], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]
    assert server.asked == asked


@pytest.mark.parametrize("part", [None, CONTENT[:1000]])
def test_wrong_bytes_are_not_kept(server, tmp_path, part):
    if part:
        (tmp_path / "a.bin.part").write_bytes(part)
    message = fault(DownloadError, fetch, [remote(server, "wrong")], tmp_path)
    assert message.startswith(f"http://127.0.0.1:{server.server_port}/wrong/file: ")
    assert f"expected {MD5} but got {hashlib.md5(CONTENT[::-1]).hexdigest()}" in message
    assert message.endswith("Nothing was kept.")
    assert server.asked == ([len(part), 0] if part else [0])  # a second time only where the beginning was older
    assert names(tmp_path) == []


def test_a_file_of_that_name_with_another_checksum_is_left_alone(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"mine")
    message = fault(DownloadError, fetch, [remote(server, "ranges")], tmp_path)
    found = hashlib.md5(b"mine").hexdigest()
    assert message == f"{tmp_path / 'a.bin'}: md5:{found}, expected {MD5}; delete it to have it fetched again"
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert server.asked == []


@pytest.mark.parametrize(
    ("manners", "words"), [("404", "404 Not Found without"), ("503", "503 Service"), ("202", "202 Accepted without")]
)
def test_a_refusal_is_told_in_one_sentence(server, tmp_path, manners, words):
    file = remote(server, manners)
    message = fault(DownloadError, fetch, [file], tmp_path)
    assert message.startswith(f"{file.url}: the server answers {words}")
    assert f"put the file into {tmp_path} by hand, named a.bin" in message


def test_no_network_names_url_folder_and_file(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.bin"
    message = fault(DownloadError, fetch, [RemoteFile(url, "a.bin", MD5)], tmp_path)
    assert message.startswith(f"{url}: cannot be reached (")
    assert message.endswith(f"put the file into {tmp_path} by hand, named a.bin, and run this again")


def test_too_little_room_is_told_before_the_download(server, tmp_path, monkeypatch):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:200_000])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("usage", (), {"free": 300_000}))
    message = fault(DownloadError, fetch, [remote(server, "ranges")], tmp_path)
    assert message == f"{tmp_path}: a.bin needs 400000 more bytes, but the disk has 300000 free"
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:200_000]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_fills_up_is_told_in_one_sentence(server, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    message = fault(DownloadError, fetch, [remote(server, "ranges")], tmp_path)
    assert message == f"{tmp_path / 'a.bin.part'}: cannot be written (No space left on device); what is there is kept"


@pytest.mark.processes
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on_where_it_was(server, tmp_path, root, end):
    file, part = remote(server, "slow"), tmp_path / "a.bin.part"
    code = f"from sedm.data.archives.download import *; fetch([{file!r}], {str(tmp_path)!r}, progress=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        stderr=subprocess.DEVNULL,
        # a shell starts its background jobs, such as this test run, deaf to Ctrl-C, and they pass that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(end)
    assert process.wait(60) != 0
    kept = part.read_bytes()
    assert 0 < len(kept) < len(CONTENT)
    assert CONTENT.startswith(kept)
    assert names(tmp_path) == ["a.bin.part"]
    fetch([remote(server, "ranges")], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [0, len(kept)]


def test_the_files_of_a_figshare_article_are_as_published(server):
    api = f"http://127.0.0.1:{server.server_port}/json"
    row = {"id": 1, "name": "a.zip", "size": 7, "download_url": "https://x.org/1", "computed_md5": 32 * "a"}
    server.json = json.dumps([row])
    assert figshare_files(5, api) == [RemoteFile("https://x.org/1", "a.zip", "md5:" + 32 * "a", 7)]
    for answer in (
        "<html>",
        "[{}]",
        "[3]",
        json.dumps([row | {"name": "../a.zip"}]),
        json.dumps([row | {"computed_md5": ""}]),
    ):
        server.json = answer
        assert "/articles/5/files: not the expected list of files" in fault(DownloadError, figshare_files, 5, api)
    refusal = fault(DownloadError, figshare_files, 5, f"http://127.0.0.1:{server.server_port}/404")
    assert "404 Not Found" in refusal
    assert refusal.endswith("download the files of figshare article 5 by hand")


@pytest.mark.parametrize(
    ("name", "checksum"),
    [
        ("../a", MD5),
        ("", MD5),
        ("..", MD5),
        ("a\\b", MD5),
        ("a", "md5:12"),
        ("a", "sha1:" + 40 * "0"),
        ("a", MD5.upper()),
    ],
)
def test_a_remote_file_without_a_plain_name_or_a_checksum_is_refused(name, checksum):
    wrong = f"name={name!r}" if checksum == MD5 else f"checksum={checksum!r}"
    assert fault(ValueError, RemoteFile, "https://example.org/a", name, checksum).startswith(wrong)


# -------------------------------------------------------------------------------------------- flowers 102

SIZES = [(40, 30), (30, 47), (36, 36), (51, 33)]  # width, height
LABELS = [3, 1, 2, 2, 1, 3, 3, 2, 1, 1, 2, 3]  # species of image 1, 2, …
OFFICIAL = {"train": [2, 3, 6], "validation": [9, 4, 7], "test": [1, 5, 8, 10, 11, 12]}
PATCH = 16  # px


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def photo(number):
    """The jpegs of a photograph and of its segmentation: random blobs on blue."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    pixels = np.kron(coarse, np.ones((6, 6, 1), np.uint8))[:height, :width]
    blob = np.kron(rng.random((height // 9 + 1, width // 9 + 1)) < 0.5, np.ones((9, 9), bool))[:height, :width]
    return jpeg(pixels), jpeg(np.where(blob[..., None], pixels, np.array([0, 0, 254], np.uint8)))


def pack(path, members):
    """A .tgz of (name, content) or ready TarInfo; hostile names are kept as they are."""
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def save_index(folder, labels=tuple(LABELS), official=OFFICIAL):
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    ids = {key: np.array([official[split]], np.uint16) for split, key in flowers102.OFFICIAL_SPLITS.items()}
    scipy.io.savemat(folder / "setid.mat", ids)


def save_archives(folder, images=None, segmentations=None):
    pictures = {number: photo(number) for number in range(1, len(LABELS) + 1)}
    images = {number: pair[0] for number, pair in pictures.items()} | (images or {})
    segmentations = {number: pair[1] for number, pair in pictures.items()} | (segmentations or {})
    order = random.Random(1).sample(sorted(images), len(images))
    junk = [("../../evil.jpg", b"evil"), ("/jpg/._image_00001.jpg", b"junk"), ("jpg/image_99999.jpg", b"junk")]
    packed = [(f"jpg/image_{number:05}.jpg", images[number]) for number in order if images[number] is not None]
    pack(folder / "102flowers.tgz", junk + packed)
    packed = [(f"segmim/segmim_{n:05}.jpg", content) for n, content in segmentations.items() if content is not None]
    pack(folder / "102segmentations.tgz", packed)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A folder with the four official files, only smaller; not to be changed."""
    folder = tmp_path_factory.mktemp("official") / "flowers"
    folder.mkdir()
    save_index(folder)
    save_archives(folder)
    return folder


@pytest.fixture
def damaged(tmp_path):
    """Such a folder to be changed."""
    (folder := tmp_path / "flowers").mkdir()
    save_index(folder)
    save_archives(folder)
    return folder


def make_flowers(folder, **options):
    """The tables of such a folder; the pictures lie beside it."""
    return flowers102.make_flowers102(folder, tempfile.mkdtemp(dir=folder.parent), image_size=PATCH, **options).tables


def area_by_counting(foreground, size):
    """1 where more than half of each new pixel is foreground, in whole numbers: every pixel cut into size² pieces."""
    side = len(foreground)
    fine = foreground.repeat(size, axis=0).repeat(size, axis=1)
    return (2 * fine.reshape(size, side, size, side).sum(axis=(1, 3)) > side**2).astype(np.uint8)


def by_hand(number):
    """(image, mask) of a photograph, worked out pixel by pixel."""
    image, segmentation = (Image.open(io.BytesIO(content)) for content in photo(number))
    width, height = image.size
    side = min(width, height)
    corner = ((width - side) // 2, (height - side) // 2)
    box = (*corner, corner[0] + side, corner[1] + side)
    foreground = np.array(
        [
            [not (r <= 10 and g <= 10 and b >= 220) for r, g, b in row]
            for row in np.asarray(segmentation.crop(box)).tolist()
        ]
    )
    image = image.crop(box).resize((PATCH, PATCH), Image.Resampling.LANCZOS)
    return np.asarray(image), area_by_counting(foreground, PATCH)


def test_flowers_are_those_of_the_archives(official):
    tables = make_flowers(official, seen_species=[3, 1])
    wanted = {"train": [2, 6], "validation": [7, 9], "test": [1, 5, 8, 10, 11, 12]}
    assert {split: table["name"][:] for split, table in tables.items()} == {
        split: [f"image_{number:05}" for number in numbers] for split, numbers in wanted.items()
    }
    shares = []
    for split, table in tables.items():
        assert table.features == flowers102.FEATURES
        assert table.cache_files  # the pictures are on disk
        check_patches(table, n_classes=2)
        for number, row in zip(wanted[split], table, strict=True):
            image, mask = by_hand(number)
            assert np.array_equal(np.asarray(row["image"]), image)
            assert np.array_equal(np.asarray(row["mask"]), mask)
            shares.append(mask.mean())
            assert row["group"] == f"species-00{LABELS[number - 1]}"
            assert row["official_split"] == split
            assert row["seen"] == (LABELS[number - 1] in (1, 3))
    assert 0.2 < np.mean(shares) < 0.8
    assert np.std(shares) > 0.05


def test_nothing_is_written_where_an_archive_says(official):
    list(make_flowers(official))
    assert not list(official.parent.parent.rglob("evil*"))
    assert names(official) == ["102flowers.tgz", "102segmentations.tgz", "imagelabels.mat", "setid.mat"]


@pytest.mark.parametrize(
    ("rgb", "flower"), [((10, 10, 220), 0), ((11, 10, 220), 1), ((10, 11, 220), 1), ((10, 10, 219), 1)]
)
def test_the_rule_for_background_has_the_published_thresholds(tmp_path, rgb, flower, monkeypatch):
    # stored without loss under the same name: jpeg would blur the edge of the rule
    buffer = io.BytesIO()
    Image.new("RGB", SIZES[1], rgb).save(buffer, format="PNG")
    save_index(tmp_path)
    save_archives(tmp_path, segmentations={1: buffer.getvalue()})
    table = make_flowers(tmp_path)["test"]
    assert np.asarray(table[0]["mask"]).tolist() == [[flower] * PATCH] * PATCH


@pytest.mark.parametrize(("side", "size"), [(37, 16), (16, 16), (33, 32), (56, 32), (5, 8)])
def test_masks_are_reduced_by_their_area(side, size):
    foreground = np.random.default_rng(side).random((side, side)) < 0.5
    assert np.array_equal(reduce_mask(foreground, size), area_by_counting(foreground, size))


def test_exactly_half_is_background():
    foreground = np.zeros((6, 6), bool)
    foreground[:, ::2] = True
    assert not reduce_mask(foreground, 3).any()


def test_the_seen_species_are_a_stored_draw(official):
    assert flowers102.draw_seen_species() == [
        5, 6, 10, 17, 18, 20, 22, 24, 27, 31, 33, 35, 38, 39, 41, 43, 44, 46, 47, 48, 49, 50, 55, 56, 58, 59, 62, 63,
        64, 65, 66, 67, 69, 71, 76, 77, 78, 81, 82, 84, 86, 87, 89, 90, 91, 96, 98, 101,
    ]  # fmt: skip
    draws = [flowers102.draw_seen_species(seed) for seed in range(200)]
    assert {len(set(draw)) for draw in draws} == {48}
    assert len({tuple(draw) for draw in draws}) == 200
    share = np.bincount(np.concatenate(draws), minlength=103)[1:] / 200  # each species is as likely as any other
    assert abs(share - 48 / 102).max() < 5 * np.sqrt(0.47 * 0.53 / 200)
    assert not any(make_flowers(official)["test"]["seen"])


def test_prepared_flowers_are_a_study_with_a_card(official, tmp_path):
    for folder in ("first", "second"):
        make_tables(
            ["flowers102", str(official), str(tmp_path / folder), "--image-size", str(PATCH), "--seen", "1", "3"]
        )
    assert names(tmp_path / "first") == ["README.md", "test.parquet", "train.parquet", "validation.parquet"]
    for name in names(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    for path in (tmp_path / "first").glob("*.parquet"):
        check_patches(load_patches(path), n_classes=2)
    assert set(load_patches(tmp_path / "first" / "test.parquet")["group"]) == {
        "species-001",
        "species-002",
        "species-003",
    }
    card = (tmp_path / "first" / "README.md").read_text()
    for words in (flowers102.LICENCE, flowers102.CITATION, flowers102.HOME, "seen species (given): 1, 3"):
        assert words in card
    assert "| train.parquet | 2 | 2 | sha256:" in card
    assert "| test.parquet | 6 | 3 | sha256:" in card
    md5 = hashlib.md5((official / "setid.mat").read_bytes()).hexdigest()
    assert f"| setid.mat | {(official / 'setid.mat').stat().st_size} | md5:{md5} | **no** |" in card  # not the real one


def test_failed_flowers_leave_nothing(damaged, tmp_path):
    (damaged / "setid.mat").unlink()
    fault(PatchTableError, make_tables, ["flowers102", str(damaged), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    save_index(damaged)
    save_archives(damaged, images={12: None})
    fault(PatchTableError, make_tables, ["flowers102", str(damaged), str(tmp_path / "out")])
    assert names(tmp_path / "out") == []


def test_missing_files_are_named_with_their_home(damaged):
    (damaged / "102flowers.tgz").unlink()
    (damaged / "setid.mat").unlink()
    assert fault(PatchTableError, make_flowers, damaged) == (
        f"{damaged}: no 102flowers.tgz, setid.mat; get the four files from {flowers102.HOME}"
    )


@pytest.mark.parametrize(
    ("labels", "changed", "words"),
    [
        (LABELS[:-1], {}, "imagelabels.mat: 11 labels, but setid.mat splits 12 images"),
        ([*LABELS, 1], {}, "imagelabels.mat: 13 labels, but setid.mat splits 12 images"),
        ([*LABELS[:-1], 103], {}, "imagelabels.mat: label 103 of image 12; expected 1 to 102"),
        ([0, *LABELS[1:]], {}, "imagelabels.mat: label 0 of image 1; expected 1 to 102"),
        (LABELS, {"train": [2, 3, 4]}, "setid.mat: the splits are not each image from 1 to 12 exactly once"),
        (LABELS, {"train": [2, 3, 0]}, "setid.mat: the splits are not each image from 1 to 12 exactly once"),
    ],
)
def test_labels_and_splits_must_fit(damaged, labels, changed, words):
    save_index(damaged, labels, OFFICIAL | changed)
    assert words in fault(PatchTableError, make_flowers, damaged)


def test_a_damaged_label_file_is_named(damaged):
    for content in (b"", b"not MATLAB", (damaged / "setid.mat").read_bytes()):
        (damaged / "imagelabels.mat").write_bytes(content)
        message = fault(PatchTableError, make_flowers, damaged)
        assert message.startswith(f"{damaged / 'imagelabels.mat'}: expected a MATLAB file with labels (")


@pytest.mark.parametrize("which", ["102flowers.tgz", "102segmentations.tgz"])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.8, 0.999])
def test_an_archive_cut_short_is_named(damaged, which, share):
    content = (damaged / which).read_bytes()
    (damaged / which).write_bytes(content[: int(share * len(content))])
    message = fault(PatchTableError, make_flowers, damaged)
    assert message.startswith(f"{damaged / which}: damaged or cut short (")


def test_an_archive_with_one_wrong_bit_is_named(damaged):
    content = bytearray((damaged / "102flowers.tgz").read_bytes())
    content[len(content) // 2] ^= 4
    (damaged / "102flowers.tgz").write_bytes(content)
    message = fault(PatchTableError, make_flowers, damaged)
    assert message.startswith(f"{damaged / '102flowers.tgz'}")


def test_a_picture_missing_from_an_archive_is_named(damaged):
    save_archives(damaged, segmentations={5: None, 11: None})
    assert fault(PatchTableError, make_flowers, damaged, seen_species=[1]) == (
        f"{damaged / '102segmentations.tgz'}: no picture of 2 of 8 images, the first is number 5"
    )
    save_archives(damaged, images={12: None})
    assert "102flowers.tgz: no picture of 1 of" in fault(PatchTableError, make_flowers, damaged)


def test_a_segmentation_of_another_size_is_named(damaged):
    save_archives(damaged, segmentations={5: photo(6)[1]})
    assert fault(PatchTableError, make_flowers, damaged) == (
        f"{damaged / '102segmentations.tgz'}, segmim_00005.jpg: 36×36, but its image in 102flowers.tgz is 30×47"
    )


@pytest.mark.parametrize("content", [b"", b"no jpeg", photo(5)[0][:300]])
def test_an_unreadable_picture_is_named(damaged, content):
    save_archives(damaged, images={5: content})
    message = fault(PatchTableError, make_flowers, damaged)
    assert message.startswith(f"{damaged / '102flowers.tgz'}, image_00005.jpg: unreadable image (")


@pytest.mark.parametrize("species", [[], [0], [103], [1, 1], [1, 2.5]])
def test_a_list_of_seen_species_must_make_sense(official, species, unchecked):
    assert "expected distinct numbers from 1 to 102" in fault(ValueError, make_flowers, official, seen_species=species)


# ----------------------------------------------------------------------------------------------- ebhi-seg


def png(pixels, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode or ("RGB" if pixels.ndim == 3 else "L")).save(buffer, format="PNG")
    return buffer.getvalue()


def biopsy(number):
    """A random image of 28 px and its anti-aliased mask."""
    rng = np.random.default_rng(number)
    coarse = np.kron(rng.integers(0, 256, (4, 4), np.uint8), np.ones((7, 7), np.uint8))
    blurred = Image.fromarray(coarse).resize((28, 28), Image.Resampling.BICUBIC)
    return rng.integers(0, 256, (28, 28, 3), np.uint8), np.asarray(blurred)


def biopsies():
    """Files of all grades: seven cases a grade of three images each, with every prefix the data set uses."""
    files, prefixes = {}, ("GT", "GTDC", "GTXC", "GTxc")
    for g, grade in enumerate(ebhi.GRADES):
        for c in range(7):
            for field in (1, 2, 3):
                name = f"{prefixes[c % 4]}20{g}{c:04}-{c % 3 + 1}-400-{field:03}.png"
                image, mask = biopsy(len(files))
                files[f"{grade}/image/{name}"] = png(image)
                files[f"{grade}/label/{name}"] = png(mask, "RGB" if c else "L")  # both occur
    return files


def save_tree(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def tree(tmp_path):
    return save_tree(tmp_path / "unpacked" / "EBHI-SEG", biopsies())


def rows_of(tables):
    """Every stored row of every split, to compare."""
    encoded = {}
    for split, table in tables.items():
        for column in ("image", "mask"):
            table = table.cast_column(column, datasets.Image(decode=False))
        encoded[split] = table.to_list()
    return encoded


@pytest.mark.slow
def test_biopsies_are_those_of_the_folders(tree):
    tables = ebhi.make_ebhi(tree.parent, image_size=PATCH).tables
    assert sum(map(len, tables.values())) == 6 * 7 * 3
    values, seen = set(), 0
    for table in tables.values():
        check_patches(table.rename_column("case", "group"), n_classes=2)
        for row in table:
            (path,) = tree.glob(f"{row['grade']}/image/*{row['case']}-{row['block']}-400-{row['field']}.png")
            image = Image.open(path).resize((PATCH, PATCH), Image.Resampling.LANCZOS)
            mask = np.asarray(Image.open(path.parents[1] / "label" / path.name).convert("L"))
            values |= set(mask.ravel().tolist())
            assert np.array_equal(np.asarray(row["image"]), np.asarray(image))
            assert np.array_equal(np.asarray(row["mask"]), area_by_counting(mask >= 128, PATCH))
            seen += row["case"] in path.name
    assert seen == 6 * 7 * 3
    assert {127, 128} <= values  # the threshold was put to the test


@pytest.mark.slow
def test_biopsies_have_the_columns_of_the_staged_table(tree, staged_data):
    tables = ebhi.make_ebhi(tree, image_size=PATCH).tables
    for split, table in tables.items():
        staged = datasets.Dataset.from_parquet(str(staged_data / "ebhi_seg_128" / f"{split}.parquet"))
        assert table.column_names == staged.column_names
        assert table.features == staged.features
        assert set(table["grade"]) <= set(staged["grade"])
        for column, form in {"case": r"\d{7}", "block": r"\d+", "field": r"\d{3}"}.items():
            assert all(re.fullmatch(form, value) for one in (table, staged) for value in one[column])


@pytest.mark.slow
def test_no_case_is_in_two_splits_and_every_grade_in_all(tree):
    tables = ebhi.make_ebhi(tree, image_size=PATCH).tables
    check_splits({split: table.rename_column("case", "group") for split, table in tables.items()})
    n_cases = {
        split: Counter(case[2] for case in set(table["case"])) for split, table in tables.items()
    }  # its third digit is the number of its grade
    assert n_cases == {
        "train": Counter(dict.fromkeys("012345", 4)),
        "validation": Counter(dict.fromkeys("012345", 1)),
        "test": Counter(dict.fromkeys("012345", 2)),
    }
    for table in tables.values():
        keys = list(zip(table["grade"], table["case"], table["field"], strict=True))
        assert [key[0] for key in keys] == sorted(key[0] for key in keys)
        assert len(set(keys)) == len(keys)
    draws = {tuple(ebhi.make_ebhi(tree, image_size=8, seed=seed).tables["test"]["case"]) for seed in range(3)}
    assert len(draws) == 3


def test_real_cases_are_split_in_the_staged_proportions(staged_data):
    grades = {}
    for path in (staged_data / "ebhi_seg_128").glob("*.parquet"):
        for row in datasets.Dataset.from_parquet(str(path)).select_columns(["case", "grade"]):
            grades.setdefault(row["case"], Counter())[row["grade"]] += 1
    split_of = ebhi.split_cases(grades, 2 / 9, 1 / 9, seed=0)
    assert Counter(split_of.values()) == {"train": 204, "validation": 34, "test": 68}


def test_the_committed_cases_are_those_of_the_staged_tables(staged_data):
    for split in ("validation", "test"):
        staged = datasets.Dataset.from_parquet(str(staged_data / "ebhi_seg_128" / f"{split}.parquet"))
        assert set(staged["case"]) == set(ebhi.COMMITTED_CASES[split])


@pytest.mark.slow
def test_cases_can_be_given_instead_of_drawn(tree, tmp_path):
    cases = {"validation": ["2000001", "2010001"], "test": ["2000002"]}
    tables = ebhi.make_ebhi(tree, image_size=PATCH, cases=cases).tables
    assert {split: sorted(set(tables[split]["case"])) for split in cases} == cases
    assert len(set(tables["train"]["case"])) == 6 * 7 - 3
    ebhi.make_ebhi(tree, image_size=PATCH, cases=cases).save(tmp_path / "out")
    assert "split by the case numbers that were given" in (tmp_path / "out" / "README.md").read_text()
    message = fault(ValueError, ebhi.make_ebhi, tree, cases={"validation": [], "test": ["2099999"]})
    assert message == f"{tree}: no image of the case 2099999, which cases['test'] names"


@pytest.mark.slow
def test_the_command_splits_biopsies_as_the_committed_results_are(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(ebhi, "COMMITTED_CASES", {"validation": ["2000001"], "test": ["2000002"]})
    for folder, more in (("committed", []), ("drawn", ["--seed", "0"])):
        make_tables(["ebhi", str(tree), str(tmp_path / folder), "--image-size", "8", *more])
    staged = {
        name: datasets.Dataset.from_parquet(str(tmp_path / name / "test.parquet")) for name in ("committed", "drawn")
    }
    assert set(staged["committed"]["case"]) == {"2000002"}
    assert set(staged["drawn"]["case"]) == set(ebhi.make_ebhi(tree, image_size=8, seed=0).tables["test"]["case"])


def test_a_case_counts_as_its_most_common_grade():
    polyps, normals = "abcdefghi", "ABCDEFGHI"
    grades = {case: Counter(Polyp=2, Normal=1) if case in polyps else Counter(Normal=1) for case in polyps + normals}
    grades["x"] = Counter({"Serrated adenoma": 1})  # the only one of its grade
    for seed in range(5):
        split_of = ebhi.split_cases(grades, 1 / 3, 1 / 3, seed)
        for cases in (polyps, normals):
            assert Counter(split_of[case] for case in cases) == {"train": 3, "validation": 3, "test": 3}
        assert split_of["x"] == "train"


@pytest.mark.slow
def test_a_zip_archive_gives_the_same_tables_in_whatever_order(tree, tmp_path):
    files = biopsies()
    with zipfile.ZipFile(tmp_path / "EBHI-SEG.zip", "w") as archive:
        for name in reversed(files):
            archive.writestr(f"EBHI-SEG/{name}", files[name])
            archive.writestr(f"__MACOSX/EBHI-SEG/{Path(name).parent}/._{Path(name).name}", b"junk")
        archive.writestr("EBHI-SEG/readme.md", b"words")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing is left out
        packed = ebhi.make_ebhi(tmp_path / "EBHI-SEG.zip", image_size=PATCH).tables
    assert rows_of(packed) == rows_of(ebhi.make_ebhi(tree, image_size=PATCH).tables)


@pytest.mark.slow
def test_what_cannot_be_used_is_left_out_and_reported(tree, tmp_path):
    image, mask = png(biopsy(999)[0]), png(biopsy(999)[1])
    gone = sorted((tree / "Polyp" / "label").iterdir())[0]
    gone.unlink()
    twin = sorted((tree / "Normal" / "image").iterdir())[0]  # the same picture in another grade, under another case
    extra = {
        "Normal/image/photo 7.png": image,
        "Normal/label/photo 7.png": mask,
        "Polyp/image/GT2099999-1-400-001.png": twin.read_bytes(),
        "Polyp/label/GT2099999-1-400-001.png": mask,
    }
    save_tree(tree, extra)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tables = ebhi.make_ebhi(tree, image_size=PATCH).tables
    assert [str(one.message).removeprefix(f"{tree}: ") for one in caught if one.category is UserWarning] == [
        "1 images left out, a name without a case number: Normal/image/photo 7.png",
        f"1 images left out, no mask: Polyp/image/{gone.name}",
        "1 images left out, the pixels of an earlier image: Polyp/image/GT2099999-1-400-001.png",
    ]
    assert sum(map(len, tables.values())) == 6 * 7 * 3 - 1
    assert "2099999" not in {case for table in tables.values() for case in table["case"]}
    ebhi.make_ebhi(tree, image_size=PATCH).save(tmp_path / "out")
    assert f"1 images left out, no mask: Polyp/image/{gone.name}" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_prepared_biopsies_are_the_study_ebhi(tree, tmp_path):
    for folder in ("first", "second"):
        ebhi.make_ebhi(tree, image_size=32).save(tmp_path / folder)
    assert names(tmp_path / "first") == ["README.md", "test.parquet", "train.parquet", "validation.parquet"]
    for name in names(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    data = load_study(build_config("ebhi", "smoke"), tmp_path / "first")
    assert {split: len(set(patches.groups)) for split, patches in data.patches.items()} == {
        "train": 24,
        "validation": 6,
        "test": 12,
    }
    card = (tmp_path / "first" / "README.md").read_text()
    for words in (ebhi.LICENCE, ebhi.CITATION, ebhi.HOME, "| test.parquet | 36 | 12 | sha256:", "seed 0"):
        assert words in card
    assert DatasetCard.load(tmp_path / "first" / "README.md").data.license == "cc-by-4.0"
    loaded = datasets.load_dataset(str(tmp_path / "first"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(table) for split, table in loaded.items()} == {"train": 72, "validation": 18, "test": 36}


@pytest.mark.slow
def test_the_card_of_a_zip_archive_holds_its_checksum(tree, tmp_path):
    path = tmp_path / "EBHI-SEG.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in biopsies().items():
            archive.writestr(name, content)
    ebhi.make_ebhi(path, image_size=PATCH).save(tmp_path / "out")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert (
        f"| EBHI-SEG.zip | {path.stat().st_size} | md5:{md5} | unknown |"
        in (tmp_path / "out" / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Normal/label/GT2030000-1-400-001.png": png(biopsy(1)[1][:20])}, "28×20, but its image is 28×28"),
        ({"Normal/image/GT2030000-1-400-001.png": b"no png"}, "001.png: unreadable image ("),
        ({"Normal/label/GT2030000-1-400-001.png": png(biopsy(1)[1])[:90]}, "001.png: unreadable image ("),
        ({"copy/Normal/image/GT2030000-1-400-001.png": b""}, "name the folder of one copy of the data"),
    ],
)
def test_faulty_biopsies_are_named(tree, tmp_path, changed, words):
    save_tree(tree, changed)
    message = fault(PatchTableError, make_tables, ["ebhi", str(tree), str(tmp_path / "out")])
    assert words in message
    assert "Normal" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_grade_says_what_was_expected(tree, tmp_path):
    (tree / "Polyp").rename(tree / "Polyps")
    message = fault(PatchTableError, ebhi.make_ebhi, tree)
    assert message == f"{tree}: no images of Polyp; {ebhi.LAYOUT}"
    (packed := tmp_path / "packed").mkdir()
    (packed / "EBHI-SEG.rar").write_bytes(b"Rar!")
    assert "unpack EBHI-SEG.rar first" in fault(PatchTableError, ebhi.make_ebhi, packed)
    assert "not a zip archive" in fault(PatchTableError, ebhi.make_ebhi, packed / "EBHI-SEG.rar")
