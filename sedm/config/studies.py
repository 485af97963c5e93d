"""The studies: each a data set with its question."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """A data set with its question."""

    kind: str  # "natural" (notebook 01) or "tissue" (notebooks 02 to 06)
    classes: tuple[str, ...]  # names of the mask values 0…K−1; class 0 is the background
    group: str  # what a group is called in words
    group_column: str = "group"  # what it is called in the table
    embedded: bool = True  # drawn by sedm itself, so no data folder is needed
    image_class: str = ""  # the column with a class of the whole image, where there is one
    shared_groups: bool = False  # may a group of the training split also be in the test split?
    redistributable: bool = True  # may a committed figure show its real images and masks?
    attribution: str = ""  # printed with the study's figures


STUDIES = {
    "tissue": Study("tissue", ("stroma", "epithelium", "lumen"), group="patient", image_class="architecture"),
    "flowers": Study("natural", ("background", "flower"), group="species"),
    "ebhi": Study(
        "tissue",
        ("background", "epithelium"),
        group="case",
        group_column="case",
        image_class="grade",
        embedded=False,
        redistributable=False,
        attribution="EBHI-SEG, Shi et al. 2023, doi:10.3389/fmed.2023.1114673, CC BY 4.0",
    ),
    "pets": Study(
        "natural",
        ("background", "animal"),
        group="breed",
        group_column="breed",
        shared_groups=True,  # what is held out is one breed, not the others' test photos
        embedded=False,
        redistributable=False,
        attribution="Oxford-IIIT Pet, Parkhi et al. 2012, CC BY-SA 4.0",
    ),
    "flowers102": Study(
        "natural",
        ("background", "flower"),
        group="species",
        shared_groups=True,  # what is held out are the unseen species
        embedded=False,
        redistributable=False,
        attribution="Flowers-102, Nilsback and Zisserman 2008, for research",
    ),
    "catch": Study(
        "tissue",
        ("other", "tumour"),
        group="patient",
        image_class="tumour_type",
        embedded=False,
        redistributable=False,
        attribution="CATCH, Wilm et al. 2022, doi:10.1038/s41597-022-01692-w, TCIA",
    ),
}
