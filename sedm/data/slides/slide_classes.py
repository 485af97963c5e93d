"""What the mask values of slides stand for, and which annotations show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sedm.data.patch_table import UNKNOWN


@dataclass(frozen=True)
class SlideClasses:
    """What the mask values stand for, and which annotations show it.

    Attributes:
        names: by mask value; the first is ground that nobody outlined.
        members: class names of the annotations that a mask value stands for besides its own name.
        ignored: class names of annotations that are passed over.
        on_top: class names of annotations that lie on top of all others, the last one topmost; the others lie as they
            were drawn.
    """

    names: tuple[str, ...]
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    on_top: tuple[str, ...] = ()

    def __post_init__(self):
        told = [member for name in self.names for member in (name, *self.members.get(name, ())) if member != name]
        twice = [name for name, n in Counter([*self.names, *told, *self.ignored]).items() if n > 1]
        if twice:
            raise ValueError(f"classes: {twice[0]!r} is there twice; give each annotation class one mask value")
        if not 2 <= len(self.names) <= UNKNOWN:
            raise ValueError(f"classes: {', '.join(self.names) or 'none'}; give a background and at least one class")
        for name in self.on_top:
            if name not in self.index:
                raise ValueError(f"on_top: {name!r} is none of the classes {', '.join(self.index)}")

    @property
    def index(self) -> dict[str, int]:
        """The mask value of each class name of the annotations.

        >>> SlideClasses(("other", "tumour"), members={"tumour": ["Tumor", "metastasis"]}).index
        {'other': 0, 'tumour': 1, 'Tumor': 1, 'metastasis': 1}
        """
        return {
            member: value for value, name in enumerate(self.names) for member in (name, *self.members.get(name, ()))
        }

    @classmethod
    def parse(cls, texts: Sequence[str], ignored: Sequence[str] = (), on_top: Sequence[str] = ()) -> SlideClasses:
        """Read classes as they are given on a command line: ``name``, or ``name=A,B`` for what annotations call it.

        >>> SlideClasses.parse(["other", "tumour=Tumor,metastasis"]).index["metastasis"]
        1
        """
        pairs = [text.partition("=")[::2] for text in texts]
        members = {name: [member for member in listed.split(",") if member] for name, listed in pairs}
        return cls(tuple(name for name, _ in pairs), members, tuple(ignored), tuple(on_top))
