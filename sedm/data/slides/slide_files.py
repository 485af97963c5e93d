"""Which files are slides, and which reader opens each."""

from __future__ import annotations

from pathlib import Path

from sedm.data.patch_table import PatchTableError
from sedm.data.slides.dicom_pyramid import DicomPyramid, is_dicom, series_of
from sedm.data.slides.openslide_pyramid import OpenSlidePyramid
from sedm.data.slides.pyramid import Pyramid, describe_cause
from sedm.data.slides.tiff_pyramid import TiffPyramid

SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".btf", ".dcm"),
    *(".mrxs", ".vms", ".vmu", ".svslide", ".czi"),  # openslide's alone
)
"""How the names of slides end."""


def open_pyramid(path: Path) -> Pyramid:
    """Open a slide by tiffslide, as DICOM, or else by openslide where that is installed.

    Raises:
        PatchTableError: no such file, not a slide that any of them reads, or colours that cannot be known.

    >>> open_pyramid(Path("nowhere/a.svs"))
    Traceback (most recent call last):
    ...
    sedm.data.errors.PatchTableError: nowhere/a.svs: no such file
    """
    if path.is_dir() or (path.is_file() and is_dicom(path)):
        return DicomPyramid(path)
    if not path.is_file():
        raise PatchTableError(f"{path}: no such file")
    try:
        return TiffPyramid(path)
    except PatchTableError as error:
        raise PatchTableError(f"{path}: {error}") from error
    except Exception as error:  # tifffile, zarr and the codecs raise many types
        causes = describe_cause(error)
        try:
            return OpenSlidePyramid(path)
        except ImportError:
            causes += '; openslide reads more: pip install "sedm[slides]"'
        except Exception as other:
            causes += f"; {describe_cause(other)}"
        raise PatchTableError(f"{path}: not a readable slide ({causes})") from error


def find_slides(folder: str | Path) -> list[Path]:
    """Find the slides in a folder and its sub-folders, in order.

    A slide in DICOM is many files: a sub-folder of a single one stands for it, and else the first of its files does.

    Raises:
        PatchTableError: no such folder, or no slide in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.svs", "a.tif", "a.geojson"):
    ...         (Path(folder) / name).touch()
    ...     [path.name for path in find_slides(folder)]
    ['a.tif', 'b.svs']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PatchTableError(f"{folder}: no such folder; expected slides")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    slides = [path for path in files if path.suffix.lower() != ".dcm" and not path.name.startswith(".")]
    first_files: dict[Path, dict[str, Path]] = {}
    for path in files:
        if path.suffix.lower() == ".dcm":
            first_files.setdefault(path.parent, {}).setdefault(series_of(path), path)
    for parent, by_series in first_files.items():
        slides += [parent] if len(by_series) == 1 and parent != folder else by_series.values()
    if not slides:
        raise PatchTableError(f"{folder}: no slides in it; expected files that end in {', '.join(SUFFIXES)}")
    return sorted(slides)
