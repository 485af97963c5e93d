"""Flowers-102 from its official archives: 102 species, of which a generator sees 48 and is shown the styles of all.

The photographs are read straight from the archives, one at a time; nothing is unpacked.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from sedm.data.archives.download import RemoteFile
from sedm.data.archives.public_tables import SPLITS, PublicTables, spool
from sedm.data.patch_table import PatchTableError
from sedm.data.pictures import encode
from sedm.data.reduce import reduce_image, reduce_mask
from sedm.runtime.seeds import seeded_generator

HOME = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
IMAGES, SEGMENTATIONS, LABELS, SPLIT_IDS = "102flowers.tgz", "102segmentations.tgz", "imagelabels.mat", "setid.mat"

# The authors publish no checksums. Source: torchvision's datasets/flowers102.py for the md5 of the images, labels and
# splits. That of the segmentations is less certain: no library gives it, it comes from public student code whose
# download fails on any other (Flowers102WithSegmentation). The sizes come from another public download script; three
# of them add up to the 328.90 MiB that the TensorFlow Datasets catalogue states for the download.
FILES = (
    RemoteFile(HOME + IMAGES, IMAGES, "md5:52808999861908f626f3c1f4e79d11fa", 344_862_509),
    RemoteFile(HOME + SEGMENTATIONS, SEGMENTATIONS, "md5:51375996b6c4f367a4b9f4492d7ecef5", 203_577_493),
    RemoteFile(HOME + LABELS, LABELS, "md5:e0620be6f572b9609742df49c70aed4d", 502),
    RemoteFile(HOME + SPLIT_IDS, SPLIT_IDS, "md5:a5357ecc9cb78c4bef273ce3793fc85c", 14_989),
)

LICENCE = "none is stated; use for research only, the copyright of each photograph stays with its owner"
CITATION = (
    "M.-E. Nilsback and A. Zisserman, Automated flower classification over a large number of classes, "
    "Indian Conference on Computer Vision, Graphics and Image Processing, 2008"
)
ABOUT = f"""# Flowers-102

Photographs of 102 flower species, from the web and by the authors, with a segmentation of each.

- Source: {HOME}
- Licence: {LICENCE}
- Cite: {CITATION}
"""

CLASSES = ("background", "flower")
N_SPECIES = 102
N_SEEN = 48  # as many as in the paper, which does not print its list
OFFICIAL_SPLITS = {"train": "trnid", "validation": "valid", "test": "tstid"}

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "group": datasets.Value("string"),
        "name": datasets.Value("string"),
        "official_split": datasets.Value("string"),
        "seen": datasets.Value("bool"),
    }
)


class Photo(NamedTuple):
    """What is known of a photograph before it is opened."""

    species: int  # 1…102
    split: str
    seen: bool  # is its species one that the generator is trained on?


def draw_seen_species(seed: int = 0) -> list[int]:
    """Draw the 48 of 102 species (1…102, ascending) whose training photographs are used.

    >>> seen = draw_seen_species(seed=0)
    >>> len(seen), seen[:5], seen == draw_seen_species(seed=1)
    (48, [5, 6, 10, 17, 18], False)
    """
    order = torch.randperm(N_SPECIES, generator=seeded_generator("flowers102 seen species", seed))
    return sorted((order[:N_SEEN] + 1).tolist())


def make_flowers102(
    folder: str | Path,
    cache_folder: str | Path,
    *,
    image_size: int = 128,
    seed: int = 0,
    seen_species: Sequence[int] | None = None,
) -> PublicTables:
    """Make the patch tables ``train``, ``validation`` and ``test`` of a folder with the four official files.

    ``train`` and ``validation`` hold the official photographs of the seen species, ``test`` the official ones of all:
    what is held out are the unseen species. Columns: ``image`` and ``mask`` (indices into `CLASSES`), ``group``
    ("species-001"), ``name`` ("image_00001"), ``official_split`` and ``seen``; rows are in the order of ``name``.
    The central square of each photograph is reduced with Lanczos, its mask by area.

    Args:
        cache_folder: where the pictures lie while the tables are in use.
        image_size: side of the patches in px.
        seed: of the draw of seen species.
        seen_species: numbers 1…102, to use another list than the drawn one.

    Raises:
        ValueError: an image size below 1, or a list that is not of distinct species.
        PatchTableError: a file that is missing, damaged or cut short; labels and splits that do not fit; an image
            without its segmentation, or of another size.

    >>> make_flowers102("nowhere", "cache")
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: nowhere: no 102flowers.tgz, 102segmentations.tgz, imagelabels.mat, setid.mat; \
get the four files from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
    """
    if image_size < 1:
        raise ValueError(f"image_size={image_size}; ask for 1 px or more")
    seen = sorted(draw_seen_species(seed) if seen_species is None else seen_species)
    if not seen or len(set(seen)) != len(seen) or not set(seen) <= set(range(1, N_SPECIES + 1)):
        raise ValueError(f"seen_species={list(seen)}; expected distinct numbers from 1 to {N_SPECIES}")
    folder = Path(folder)
    photos = _read_index(folder, set(seen))
    table = spool(_read_rows(folder, photos, image_size), FEATURES, Path(cache_folder) / "photographs.arrow")
    official_split = np.array(table["official_split"])
    n_empty = sum(not np.asarray(mask).any() for mask in table["mask"])
    return PublicTables(
        tables={split: table.select(np.flatnonzero(official_split == split)).sort("name") for split in SPLITS},
        about=ABOUT,
        notes=[
            f"{image_size} px a side: the central square, reduced with Lanczos; masks by area, 1 where above a half",
            "masks at full size: background where R ≤ 10, G ≤ 10 and B ≥ 220 in the segmentation, flower elsewhere",
            f"{n_empty} masks show no flower at all",
            "train and validation: the official ones of the seen species; test: the official one of all species",
            f"seen species ({f'drawn with seed {seed}' if seen_species is None else 'given'}): "
            f"{', '.join(map(str, seen))}",
        ],
        sources=[folder / file.name for file in FILES],
        published=FILES,
    )


def _read_index(folder: Path, seen: set[int]) -> dict[int, Photo]:
    """Read which photographs the three tables hold, by their numbers 1…n."""
    missing = [file.name for file in FILES if not (folder / file.name).is_file()]
    if missing:
        raise PatchTableError(f"{folder}: no {', '.join(missing)}; get the four files from {HOME}")
    (labels,) = _read_numbers(folder / LABELS, ["labels"])
    split_ids = _read_numbers(folder / SPLIT_IDS, OFFICIAL_SPLITS.values())
    n_split = sum(map(len, split_ids))
    if len(labels) != n_split:
        raise PatchTableError(f"{folder / LABELS}: {len(labels)} labels, but {SPLIT_IDS} splits {n_split} images")
    if not np.array_equal(np.sort(np.concatenate(split_ids)), np.arange(1, n_split + 1)):
        raise PatchTableError(f"{folder / SPLIT_IDS}: the splits are not each image from 1 to {n_split} exactly once")
    for number, label in enumerate(labels, start=1):
        if not 1 <= label <= N_SPECIES:
            raise PatchTableError(f"{folder / LABELS}: label {label} of image {number}; expected 1 to {N_SPECIES}")
    return {
        int(number): Photo(species, split, species in seen)
        for split, ids in zip(OFFICIAL_SPLITS, split_ids, strict=True)
        for number in ids
        if (species := int(labels[number - 1])) in seen or split == "test"
    }


def _read_numbers(path: Path, names: Iterable[str]) -> list[np.ndarray]:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        return [np.asarray(content[name]).astype(int).ravel() for name in names]
    except Exception as error:  # scipy raises many types for damaged files
        raise PatchTableError(f"{path}: expected a MATLAB file with {', '.join(names)} ({error!r})") from error


def _read_rows(folder: Path, photos: dict[int, Photo], image_size: int) -> Iterator[dict]:
    """Read the rows of all splits in the order of the archive; one photograph is in memory at a time."""
    masks = {}
    for number, picture in _read_pictures(folder / SEGMENTATIONS, r"segmim_(\d{5})\.jpg", photos):
        red, green, blue = np.moveaxis(np.asarray(picture), -1, 0)
        # a jpeg is never exactly blue, so the rule is loose
        background = (red <= 10) & (green <= 10) & (blue >= 220)
        masks[number] = picture.size, encode(reduce_mask(~background, image_size))
    for number, picture in _read_pictures(folder / IMAGES, r"image_(\d{5})\.jpg", photos):
        photo, (size, mask) = photos[number], masks[number]
        if size != picture.size:
            raise PatchTableError(
                f"{folder / SEGMENTATIONS}, segmim_{number:05}.jpg: {size[0]}×{size[1]}, but its image in {IMAGES} is "
                f"{picture.width}×{picture.height}"
            )
        yield {
            "image": encode(reduce_image(picture, image_size)),
            "mask": mask,
            "group": f"species-{photo.species:03}",
            "name": f"image_{number:05}",
            "official_split": photo.split,
            "seen": photo.seen,
        }


def _read_pictures(archive: Path, pattern: str, numbers: Iterable[int]) -> Iterator[tuple[int, Image.Image]]:
    """Read number and RGB picture of each of these photographs, once, without unpacking the archive."""
    missing = set(numbers)
    n_pictures = len(missing)
    with tqdm(total=n_pictures, desc=archive.name, unit="image", disable=None) as bar:
        for name, content in _read_members(archive):
            match = re.fullmatch(pattern, name)
            number = int(match[1]) if match else None
            if number not in missing:
                continue
            missing.remove(number)
            try:
                picture = Image.open(io.BytesIO(content)).convert("RGB")
            except Exception as error:  # Pillow raises many types for damaged files
                raise PatchTableError(f"{archive}, {name}: unreadable image ({error})") from error
            yield number, picture
            bar.update()
    if missing:
        raise PatchTableError(
            f"{archive}: no picture of {len(missing)} of {n_pictures} images, the first is number {min(missing)}"
        )


def _read_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Read file name and content of each file in a .tgz; folders in it do not matter."""
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                if member.isfile():
                    yield PurePosixPath(member.name).name, members.extractfile(member).read()
            while members.fileobj.read(1 << 20):  # to the end, where the archive's own checksum is
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise PatchTableError(f"{archive}: damaged or cut short ({error}); delete it and fetch it again") from error
