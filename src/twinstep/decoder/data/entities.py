"""On which side of the split a thing is, from its name alone.

An entity is "KIND NAME", such as "digit 1204" or "voice klatt". Its kind says how many
in a hundred are held out, so one digit's image is on the same side in every task that
shows it, on every machine.
"""

from __future__ import annotations

from twinstep.decoder.data.example import Split, split_of

HELD_OUT_PERCENT = {
    "digit": 25,  # one image of handwriting
    "voice": 25,  # a family of voices: klatt, klatt2, .. are one
    "add": 10,  # two numbers, in either order
    "recall": 10,  # a list of keys and values
    "number": 30,  # a number that is written in words
    "catalogue": 15,  # the translations of one program
    "name": 15,  # of a territory or a language
    "word": 25,  # that is drawn
    "scene": 10,  # what is where in a drawing
    "module": 20,  # a module of the standard library
    "package": 10,  # a module of an installed package
}
"""Kinds and the share that is held out. Larger where entities are few, so that a
measurement on them is worth something."""


def side(entity: str) -> Split:
    """Returns the split that the entity belongs to. Raises: KeyError for a kind that
    is not in HELD_OUT_PERCENT."""
    kind, _, _ = entity.partition(" ")
    return split_of(entity, held_out_percent=HELD_OUT_PERCENT[kind])
