"""Writes paper/main.pdf from the values and figures as they are, in seconds and without training anything."""

import sys
from pathlib import Path

from sedm.runtime.extras import extra

with extra("paper"):
    import typst

PAPER = Path(__file__).resolve().parent

if __name__ == "__main__":
    half = PAPER / "main.pdf.part"  # renamed when it is whole: two runs may build it at once
    try:  # with the fonts that typst brings along
        typst.compile(PAPER / "main.typ", half, root=PAPER.parent, ignore_system_fonts=True, format="pdf")
    except typst.TypstError as error:
        sys.exit(f"the paper was not built: {str(error).removeprefix('panicked with: ')}")
    half.replace(PAPER / "main.pdf")
    print("paper/main.pdf")
