"""Writes paper/main.pdf from the values and figures as they are, in seconds and without training anything."""

from pathlib import Path

import typst

PAPER = Path(__file__).resolve().parent

if __name__ == "__main__":
    half = PAPER / "main.pdf.part"  # renamed when it is whole: two runs may build it at once
    typst.compile(PAPER / "main.typ", half, root=PAPER.parent, ignore_system_fonts=True, format="pdf")  # fonts of typst
    half.replace(PAPER / "main.pdf")
    print("paper/main.pdf")
