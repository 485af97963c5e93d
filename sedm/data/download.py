"""Public files: fetched whole, checked against their published checksum, and described by a card."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
from tqdm import tqdm

from sedm.files import replacing

DIGITS = {"md5": 32, "sha256": 64}  # hexadecimal digits of each known checksum

CHUNK = 1 << 16  # bytes
TIMEOUT = 60.0  # s without a byte
ATTEMPTS = 5  # connections to one file that may break before a person has to look
WAIT = 2.0  # s between them


class DownloadError(RuntimeError):
    """A file could not be fetched; the message says which, why, and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that somebody else publishes.

    >>> RemoteFile("https://example.org/a.bin?v=2", "a.bin", "md5:" + 32 * "0", size=10).name
    'a.bin'
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


def checksum(path: str | Path, algorithm: str = "md5") -> str:
    """The checksum of a file, such as ``"md5:…"``, as a `RemoteFile` holds it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (path := Path(folder) / "empty").write_bytes(b"")
    ...     checksum(path)
    'md5:d41d8cd98f00b204e9800998ecf8427e'
    """
    with open(path, "rb") as file:
        # not for security: some machines forbid md5 otherwise
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def fetch(files: Sequence[RemoteFile], folder: str | Path, *, progress: bool = True) -> list[Path]:
    """The paths of ``files`` in ``folder``, each downloaded unless it is there already.

    An interrupted download stays as ``<name>.part`` and the next call goes on from its end. A file gets its own name
    only after its checksum matched.

    Raises:
        DownloadError: no network, a refusal by the server, a wrong checksum, a full disk, a connection that keeps
            breaking; or a file of that name in the folder with another checksum, which is left as it is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (source := Path(folder) / "published").write_bytes(b"")
    ...     file = RemoteFile(source.as_uri(), "a.bin", "md5:d41d8cd98f00b204e9800998ecf8427e")
    ...     [path.name for path in fetch([file], Path(folder) / "data", progress=False)]
    ['a.bin']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetch_file(file, folder, progress) for file in files]


def figshare_files(article: int, api: str = "https://api.figshare.com/v2") -> list[RemoteFile]:
    """The files of a figshare article, with the sizes and md5 sums that figshare publishes at this moment.

    Raises:
        DownloadError: no network, no such article, or an answer in another form.

    >>> import tempfile
    >>> row = {"name": "a.zip", "size": 7, "download_url": "https://example.org/1", "computed_md5": 32 * "0"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (list_of_files := Path(folder) / "articles" / "5" / "files").parent.mkdir(parents=True)
    ...     _ = list_of_files.write_text(json.dumps([row]))
    ...     [file.name for file in figshare_files(5, api=Path(folder).as_uri())]
    ['a.zip']
    """
    url = f"{api}/articles/{article}/files"
    with _open(url, 0, f"download the files of figshare article {article} by hand") as response:
        try:
            return [
                RemoteFile(file["download_url"], file["name"], f"md5:{file['computed_md5']}", file["size"])
                for file in json.load(response)
            ]
        except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError) as error:
            raise DownloadError(f"{url}: not the expected list of files ({error!r})") from error


def write_card(
    folder: str | Path,
    *,
    about: str,
    tables: dict[str, Path],
    group: str,
    notes: Sequence[str],
    sources: Sequence[Path] = (),
    published: Sequence[RemoteFile] = (),
) -> Path:
    """The path of ``README.md`` in ``folder``: whose data these are, what they were made from, and what they hold.

    Args:
        about: title, licence and citation, in Markdown.
        tables: parquet file of each split.
        group: the column whose distinct values are counted.
        notes: one line each, about how the tables were made.
        sources: files they were made from; their md5 sums are compared with those of ``published``.

    >>> import tempfile
    >>> from sedm.data.patches import from_arrays, save_patches
    >>> import numpy as np
    >>> pixels = np.zeros((1, 8, 8, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_patches(from_arrays(pixels, pixels[..., 0], ["a"]), Path(folder) / "train.parquet")
    ...     card = write_card(folder, about="# Squares", tables={"train": path}, group="group", notes=["drawn"])
    ...     print(card.read_text().split(" | sha256:")[0])
    # Squares
    <BLANKLINE>
    ## Tables
    <BLANKLINE>
    | file | images | distinct group | checksum |
    |---|---|---|---|
    | train.parquet | 1 | 1
    """
    lines = [about.strip(), "", "## Tables", ""]
    lines += [f"| file | images | distinct {group} | checksum |", "|---|---|---|---|"]
    for path in tables.values():
        groups = pyarrow.parquet.read_table(path, columns=[group])[group].to_pylist()
        lines.append(f"| {path.name} | {len(groups)} | {len(set(groups))} | {checksum(path, 'sha256')} |")
    if sources:
        lines += ["", "## Made from", "", "| file | bytes | checksum | as published |", "|---|---|---|---|"]
        expected = {file.name: file.checksum for file in published}
        for path in sources:
            found = checksum(path)
            verdict = {None: "unknown", found: "yes"}.get(expected.get(path.name), "**no**")
            lines.append(f"| {path.name} | {path.stat().st_size} | {found} | {verdict} |")
    lines += ["", "## How", "", *(f"- {note}" for note in notes), ""]
    card = Path(folder) / "README.md"
    with replacing(card) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return card


def _fetch_file(file: RemoteFile, folder: Path, progress: bool) -> Path:
    path, part = folder / file.name, folder / f"{file.name}.part"
    algorithm = file.checksum.partition(":")[0]
    if path.exists():
        if (found := checksum(path, algorithm)) != file.checksum:
            raise DownloadError(f"{path}: {found}, expected {file.checksum}; delete it to have it fetched again")
        return path
    continued = _download(file, part, progress)
    found = checksum(part, algorithm)
    if found != file.checksum and continued:  # the pieces are of two versions, or the first was damaged
        part.unlink()
        _download(file, part, progress)
        found = checksum(part, algorithm)
    if found != file.checksum:
        size = part.stat().st_size
        part.unlink()
        raise DownloadError(
            f"{file.url}: received {size} bytes with {found}, expected {file.checksum}; nothing was kept, the file "
            "was changed by its owner or damaged on its way"
        )
    part.replace(path)
    return path


def _download(file: RemoteFile, part: Path, progress: bool) -> bool:
    """Whether ``part``, now as long as the server says, was put together from more than one answer."""
    continued = False
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT)
        complete, appended = _receive(file, part, progress)
        continued |= appended
        if complete:
            return continued
    raise DownloadError(
        f"{file.url}: the connection broke {ATTEMPTS} times; {part.stat().st_size} bytes are kept in {part}, "
        "run this again to go on from there"
    )


def _receive(file: RemoteFile, part: Path, progress: bool) -> tuple[bool, bool]:
    """(complete, appended): whether one answer brought the rest of ``part``, and whether it was added to its end."""
    start = part.stat().st_size if part.exists() else 0
    by_hand = f"put the file into {part.parent} by hand, named {file.name}, and run this again"
    response = _open(file.url, start, by_hand)
    if response is None:  # nothing follows what is there: the checksum decides
        return True, True
    with response:
        if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT, None):  # None: not http
            raise DownloadError(f"{file.url}: the server answers {response.status} without the file; {by_hand}")
        appended = response.status == http.client.PARTIAL_CONTENT
        start = start if appended else 0  # a server that knows no ranges sends the whole file
        length = response.headers["Content-Length"]
        total = file.size if length is None else start + int(length)
        free = shutil.disk_usage(part.parent).free + (part.stat().st_size - start if part.exists() else 0)
        if total is not None and free < total - start:
            raise DownloadError(
                f"{part.parent}: {file.name} needs {total - start} more bytes, but the disk has {free} free"
            )
        bar = tqdm(
            total=total,
            initial=start,
            desc=file.name,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=not progress,
        )
        try:
            with bar, open(part, "ab" if appended else "wb") as out:
                while chunk := _read(response):
                    out.write(chunk)
                    bar.update(len(chunk))
        except OSError as error:
            raise DownloadError(f"{part}: cannot be written ({error.strerror}); what is there is kept") from error
    return total is None or part.stat().st_size >= total, appended


def _read(response) -> bytes:
    """The next bytes, or none at the end and where the connection breaks."""
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException):
        return b""


def _open(url: str, start: int, advice: str):
    """The server's answer from byte ``start`` on; None where the file ends before it."""
    headers = {"User-Agent": "sedm"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}; {advice}") from error
    except (OSError, http.client.HTTPException) as error:  # no network, no such host, no answer
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url}: cannot be reached ({reason}); {advice}") from error
