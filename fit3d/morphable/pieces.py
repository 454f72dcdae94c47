"""What the separate pieces of a head are, by their names: the one rule for all that treat them differently."""

from __future__ import annotations

from typing import Literal

from fit3d.morphable.model import FILM_SUFFIX

PieceKind = Literal["skin", "eye", "teeth", "tongue", "attached", "film"]
"""'eye' is an eyeball or a part of one, 'tongue' gums too, 'attached' lies on the skin and is none, such as lashes,
'film' is looked through."""

_LIDS = ("eyelid", "eye_lid", "socket")
_ATTACHED = ("lash", "brow", "lacrimal", "tear")
_EYE = ("eye", "sclera", "iris", "cornea", "pupil")
_TEETH = ("teeth", "tooth")
_TONGUE = ("tongue", "gum")


def piece_kind(object_name: str) -> PieceKind:
    """What the object of that name is, in upper or lower case; one whose name tells nothing is skin."""
    name = object_name.lower()
    if name.endswith(FILM_SUFFIX):
        return "film"
    # 'eyelashes', 'eyebrow', 'eyelid' and 'eye_socket' before 'eye': the longer word decides
    kinds: tuple[tuple[tuple[str, ...], PieceKind], ...] = (
        (_ATTACHED, "attached"),
        (_LIDS, "skin"),
        (_EYE, "eye"),
        (_TEETH, "teeth"),
        (_TONGUE, "tongue"),
    )
    return next((kind for words, kind in kinds if any(word in name for word in words)), "skin")
