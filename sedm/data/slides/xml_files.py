"""XML of annotation tools: parsed without entities and without looking outside of the file."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from sedm.data.patch_table import PatchTableError
from sedm.runtime.extras import extra

with extra("slides"):
    from defusedxml import DefusedXmlException, ElementTree


def parse_xml(path: Path) -> Element | None:
    """Parse a file of XML and return its root; None where it is no XML at all.

    Raises:
        PatchTableError: XML that breaks off or is broken, by line and column, or that declares entities.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.xml"
    ...     _ = path.write_text("<Annotations><Annotation/></Annotations>")
    ...     parse_xml(path).tag
    'Annotations'
    """
    content = path.read_bytes()
    if not content.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0").startswith(b"<"):
        return None
    try:
        return ElementTree.fromstring(content, forbid_dtd=True)
    except (ParseError, ValueError, LookupError) as error:  # the last: strange encodings
        if isinstance(error, DefusedXmlException):
            raise PatchTableError(
                f"{path}: XML with a document type or entities; annotation tools write none"
            ) from error
        raise PatchTableError(f"{path}: broken XML ({error}); export it again") from error


def read_number(text: str | None) -> float | str | None:
    """Read a number; what is none stays as it is, for the error that names it.

    >>> read_number("1.5"), read_number("left"), read_number(None)
    (1.5, 'left', None)
    """
    try:
        return float(text)
    except (TypeError, ValueError):
        return text
