"""Tables that people write in a spreadsheet program and save as text, in whatever encoding and with whatever separator.

A spreadsheet program saves "CSV" in UTF-8 or in the old encoding of its system, and separates cells by semicolons
where the decimal separator is a comma.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from sedm.data.errors import PatchTableError, Report, raise_fault

SEPARATORS = ",;\t"

# Signs of Windows-1252 whose bytes are accented letters in the encodings of old Macs and of DOS. In a text that is
# Windows-1252, they stand where no letter does: no letter before and after them, or before and after a quotation.
LETTER = r"[^\W\d_]"
SIGNS = re.compile(rf"(?<!{LETTER})(?:[€–]|„([^“”\n]*)“|“([^“”\n]*)”|‘([^‘’\n]*)’)(?!{LETTER})")
# What is no Windows-1252: any other such sign; three characters beyond ASCII in a row, which are no Western word but
# Cyrillic, Greek, Chinese or Japanese; a letter of UTF-8, in a file that is not all UTF-8; a sign within a word.
OTHER_ENCODING = re.compile(
    rf"[€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|[\xa0-\xff]{{3}}|[ÂÃ][\xa0-\xbf]|{LETTER}[¡-©«¬®-±´¶¸¹»-¿×÷]{LETTER}"
)


def read_spreadsheet(
    path: str | Path, columns: Sequence[str], report: Report = raise_fault, called_by: Mapping[str, str] | None = None
) -> dict[int, dict[str, str]]:
    """Read a table with a head; the cells stay text, without the blanks around them.

    The encoding is UTF-8, UTF-16 with a byte order mark, or Windows-1252. The separator is the comma, semicolon or tab
    that makes a head with all ``columns``. Rows without any text are left out.

    Args:
        path: the text file.
        columns: what the head must name and no row may leave blank; there may be more.
        report: is told each fault of a row, which is left out.
        called_by: the setting that says what a column is called, for the message where it is missing.

    Returns:
        The rows by line number, as a spreadsheet program counts them: the head is usually line 1.

    Raises:
        PatchTableError: no such file, an encoding that cannot be told, a column that is missing or there twice, no
            row, a blank cell in one of ``columns``, a cell beyond the head, or quotation marks that do not match.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "metadata.csv"
    ...     _ = path.write_text("file_name; group\\na.png; Köln \\n", encoding="cp1252")
    ...     read_spreadsheet(path, columns=("file_name", "group"))
    {2: {'file_name': 'a.png', 'group': 'Köln'}}
    """
    path = Path(path)
    if not path.is_file():
        raise PatchTableError(f"{path}: no such file; expected a table with the columns {' and '.join(columns)}")
    text = _decode(path)
    lines = _split(text, _separator(path, text, columns, called_by or {}))
    head: list[str] = []
    rows: dict[int, dict[str, str]] = {}
    number, n_faults = 0, 0
    try:
        for number, cells in enumerate(lines, start=1):
            if not any(cells):
                continue
            if not head:
                head = cells
                continue
            try:
                rows[number] = _read_row(f"{path}, line {number}", head, cells, columns)
            except PatchTableError as fault:
                n_faults += 1
                report(fault.at(path, number))
    except csv.Error as error:
        raise PatchTableError(f"{path}, line {number + 1}: its quotation marks do not match ({error})") from error
    if not rows and not n_faults:
        raise PatchTableError(f"{path}: no rows below the head")
    return rows


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        without_signs = SIGNS.sub(r" \1\2\3 ", SIGNS.sub(r" \1\2\3 ", text))  # again for those in quotations
        if "\ufffd" in text or OTHER_ENCODING.search(without_signs):
            text = "\0"
    if "\0" in text:  # in no text, but in UTF-16 without its mark, in UTF-32 and in files that are no text at all
        raise PatchTableError(f"{path}: its encoding cannot be told; save it again as “CSV UTF-8”")
    return text


def _split(text: str, separator: str) -> Iterator[list[str]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    for line in lines:
        yield [cell.strip() for cell in line]


def _separator(path: Path, text: str, columns: Sequence[str], called_by: Mapping[str, str]) -> str:
    """Find the separator that makes a head with all columns, each once."""
    head = next((line.strip() for line in io.StringIO(text, newline="") if line.strip(f"{SEPARATORS} \r\n")), "")
    for separator in SEPARATORS:
        cells = next(_split(head, separator), [])
        if set(columns) <= set(cells):
            for column in filter(None, cells):
                if cells.count(column) > 1:
                    raise PatchTableError(f"{path}: the column {column!r} is there {cells.count(column)} times")
            return separator
    settings = [f"{called_by[column]}=…" for column in columns if column not in head and column in called_by]
    advice = f"; say what they are called: {', '.join(settings)}" if settings else ""
    raise PatchTableError(f"{path}: expected the columns {' and '.join(columns)}, found {head!r}{advice}")


def _read_row(where: str, head: Sequence[str], cells: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    pairs = list(zip_longest(head, cells, fillvalue=""))
    for number, (column, cell) in enumerate(pairs, start=1):
        if cell and not column:
            hint = "; save without row numbers (pandas: index=False)" if number == 1 else ""
            raise PatchTableError(f"{where}: {cell!r} in column {number}, which has no name in the head{hint}")
    row = {column: cell for column, cell in pairs if column}
    for column in columns:
        if not row[column]:
            raise PatchTableError(f"{where}: the column {column!r} is empty", column=column, value="")
    return row
