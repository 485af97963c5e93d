"""Public files: downloaded whole, resumed where a connection broke, and checked against their published checksum."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

DIGITS = {"md5": 32, "sha256": 64}  # hexadecimal digits of each known checksum

CHUNK = 1 << 14  # bytes
TIMEOUT = 60.0  # s without a byte
ATTEMPTS = 5  # connections to one file that may break before a person has to look
WAIT = 2.0  # s between them


class DownloadError(OSError):
    """A file could not be fetched; the message says which, why, and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that somebody else publishes.

    >>> RemoteFile("https://example.org/a.bin?v=2", "a.bin", "md5:" + 32 * "0", size=10).algorithm
    'md5'
    """

    url: str
    name: str  # in the folder it is fetched into
    checksum: str  # "md5:…" or "sha256:…", lower-case hexadecimal
    size: int | None = None  # bytes, where it is published

    def __post_init__(self):
        algorithm, _, digest = self.checksum.partition(":")
        if DIGITS.get(algorithm) != len(digest) or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"checksum={self.checksum!r} of {self.name}; expected md5:… or sha256:… in lower case")
        if self.name in ("", ".", "..") or {"/", "\\"} & set(self.name):
            raise ValueError(f"name={self.name!r} of {self.url}; expected a file name without a folder")

    @property
    def algorithm(self) -> str:
        """Return the name of the checksum's algorithm."""
        return self.checksum.partition(":")[0]


def checksum(path: str | Path, algorithm: str = "md5") -> str:
    """Compute the checksum of a file, such as ``"md5:…"``, as a `RemoteFile` holds it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (path := Path(folder) / "empty").write_bytes(b"")
    ...     checksum(path)
    'md5:d41d8cd98f00b204e9800998ecf8427e'
    """
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def fetch(files: Sequence[RemoteFile], folder: str | Path, *, progress: bool = True) -> list[Path]:
    """Download the files that are not in ``folder`` yet, and return the paths of all.

    An interrupted download stays as ``<name>.part`` and the next call goes on from its end. A file gets its own name
    only after its checksum matched.

    Raises:
        DownloadError: no network, a refusal by the server, a wrong checksum, a full disk, a connection that keeps
            breaking; or a file of that name in the folder with another checksum, which is left as it is.

    >>> import tempfile
    >>> file = RemoteFile("https://example.org/a.bin", "a.bin", "md5:d41d8cd98f00b204e9800998ecf8427e")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.bin").write_bytes(b"")  # downloaded earlier
    ...     [path.name for path in fetch([file], folder)]
    ['a.bin']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetch_file(file, folder, progress) for file in files]


def figshare_files(article: int, api: str = "https://api.figshare.com/v2") -> list[RemoteFile]:
    """Ask figshare for the files of an article, with the sizes and md5 sums that it publishes at this moment.

    Only the programming interface is asked. pooch resolves a DOI at doi.org and then opens figshare's page of the
    article, which turns programs away.

    Raises:
        DownloadError: no network, no such article, or an answer in another form.
    """
    url = f"{api}/articles/{article}/files"
    try:
        response = requests.get(url, timeout=TIMEOUT)
        response.raise_for_status()
        return [
            RemoteFile(
                url=file["download_url"],
                name=file["name"],
                checksum=f"md5:{file['computed_md5']}",
                size=file["size"],
            )
            for file in response.json()
        ]
    except (ValueError, TypeError, KeyError) as error:  # no JSON is a ValueError, though requests also calls it its own
        raise DownloadError(f"{url}: not the expected list of files ({error!r})") from error
    except requests.RequestException as error:
        advice = f"download the files of figshare article {article} by hand"
        raise DownloadError(f"{url}: {_reason(error)}; {advice}") from error


def _fetch_file(file: RemoteFile, folder: Path, progress: bool) -> Path:
    path = folder / file.name
    if path.exists():  # pooch would replace a file with another checksum
        actual = checksum(path, file.algorithm)
        if actual != file.checksum:
            raise DownloadError(f"{path}: {actual}, expected {file.checksum}; delete it to have it fetched again")
        return path
    downloader = _ResumingDownloader(file, folder / f"{file.name}.part", progress)
    try:
        while not path.exists():
            try:
                pooch.retrieve(file.url, file.checksum, fname=file.name, path=folder, downloader=downloader)
            except ValueError:
                if not downloader.resumed:  # else the pieces are of two versions, or the first was damaged
                    raise
    except ValueError as error:
        raise DownloadError(f"{file.url}: {error} Nothing was kept.") from error
    return path


class _ResumingDownloader:
    """Download a file for `pooch.retrieve`, going on from the end of ``part``."""

    def __init__(self, file: RemoteFile, part: Path, progress: bool):
        self.file = file
        self.part = part
        self.progress = progress
        self.resumed = False  # whether the last download was put together from more than one answer

    def __call__(self, url: str, output_file: str, _: object = None) -> None:
        """Download ``url`` and move it to ``output_file``, where pooch checks it."""
        by_hand = f"put the file into {self.part.parent} by hand, named {self.file.name}, and run this again"
        Path(output_file).unlink()  # empty; a killed process would leave it behind
        self.resumed = False
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(WAIT)
            try:
                self._receive(url)
                self.part.replace(output_file)
                return
            except DownloadError:  # there is no room
                raise
            except requests.HTTPError as error:
                raise DownloadError(f"{url}: {_reason(error)}; {by_hand}") from error
            except requests.RequestException as error:  # no network, or a connection that broke
                failure = error
            except OSError as error:
                message = f"{self.part}: cannot be written ({error.strerror}); what is there is kept"
                raise DownloadError(message) from error
        if not self._n_received():
            raise DownloadError(f"{url}: {_reason(failure)}; {by_hand}") from failure
        raise DownloadError(
            f"{url}: the connection broke {ATTEMPTS} times; {self._n_received()} bytes are kept in {self.part}, "
            "run this again to go on from there"
        ) from failure

    def _receive(self, url: str) -> None:
        """Add what one answer of the server brings to ``part``."""
        start = self._n_received()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if start and response.status_code == requests.codes.requested_range_not_satisfiable:
                self.resumed = True
                return  # nothing follows what is there: the checksum decides
            response.raise_for_status()
            if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
                raise requests.HTTPError(response=response)
            appended = response.status_code == requests.codes.partial_content
            self.resumed |= appended
            start = start if appended else 0  # a server that knows no ranges sends the whole file
            length = response.headers.get("Content-Length")
            total = self.file.size if length is None else start + int(length)
            self._check_room(total, start)
            with (
                self.part.open("ab" if appended else "wb") as out,
                tqdm(
                    total=total,
                    initial=start,
                    desc=self.file.name,
                    unit="B",
                    unit_scale=True,
                    unit_divisor=1024,
                    disable=not self.progress,
                ) as bar,
            ):
                for chunk in response.iter_content(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))

    def _n_received(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _check_room(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self.part.parent).free + self._n_received() - start
        if total is not None and free < total - start:
            raise DownloadError(
                f"{self.part.parent}: {self.file.name} needs {total - start} more bytes, but the disk has {free} free"
            )


def _reason(error: requests.RequestException) -> str:
    """Say in a few words why there is no answer, or which one."""
    if error.response is None:
        return f"cannot be reached ({error})"
    return f"the server answers {error.response.status_code} {error.response.reason} without the file"
