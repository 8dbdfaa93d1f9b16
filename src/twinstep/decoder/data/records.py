"""An example as bytes, and back: msgpack of a fixed shape, with every length bounded.

Sound is kept as int16 (what it was made as), pixels as bytes. A medium of POOLED_BYTES
or more is a record of its own, so that a voice that is asked about in a hundred
examples is stored once; the example holds the number of that record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from twinstep.decoder.data.example import Clip, Example, Part, Picture, Said, Sound
from twinstep.errors import Corrupt

RECORD_BYTES_MAX = 1 << 22
POOLED_BYTES = 4096
SIDE_MAX = 4096

T = TypeVar("T")
Side = Annotated[int, msgspec.Meta(ge=1, le=SIDE_MAX)]
Bytes = Annotated[bytes, msgspec.Meta(max_length=RECORD_BYTES_MAX)]
Words = Annotated[str, msgspec.Meta(max_length=1 << 20)]


class PictureRecord(msgspec.Struct, tag="picture", array_like=True, frozen=True):
    height: Side
    width: Side
    pixels: Bytes


class ClipRecord(msgspec.Struct, tag="clip", array_like=True, frozen=True):
    frames: Side
    height: Side
    width: Side
    seconds_per_frame: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    pixels: Bytes


class SoundRecord(msgspec.Struct, tag="sound", array_like=True, frozen=True):
    samples: Bytes


class SaidRecord(msgspec.Struct, tag="said", array_like=True, frozen=True):
    text: Words


class PooledRecord(msgspec.Struct, tag="pooled", array_like=True, frozen=True):
    """`number` of the medium among those that the file holds after its examples."""

    number: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


Medium = PictureRecord | ClipRecord | SoundRecord
Piece = Words | Medium | SaidRecord | PooledRecord


class ExampleRecord(msgspec.Struct, array_like=True, frozen=True):
    entity: Words
    prompt: Annotated[tuple[Piece, ...], msgspec.Meta(max_length=4096)]
    answer: Words
    choices: Annotated[tuple[Words, ...], msgspec.Meta(max_length=4096)]


_ENCODER = msgspec.msgpack.Encoder()
_EXAMPLE = msgspec.msgpack.Decoder(ExampleRecord)
_MEDIUM = msgspec.msgpack.Decoder(Medium)


def encode(example: Example, pool: Callable[[bytes], int]) -> bytes:
    """Returns the example's record; `pool` takes a large medium's and gives its number.

    Raises: ValueError for media of another shape or type than example.py says."""
    pieces: list[Piece] = []
    for part in example.prompt:
        piece = _piece(part)
        if isinstance(piece, Medium):
            record = _ENCODER.encode(piece)
            if len(record) >= POOLED_BYTES:
                piece = PooledRecord(pool(record))
        pieces.append(piece)
    record = _ENCODER.encode(
        ExampleRecord(example.entity, tuple(pieces), example.answer, example.choices)
    )
    if len(record) > RECORD_BYTES_MAX:
        raise ValueError(
            f"an example of {example.task} has {len(record)} bytes; at most "
            f"{RECORD_BYTES_MAX}"
        )
    return record


def _piece(part: Part) -> Piece:
    match part:
        case str():
            return part
        case Said(text):
            return SaidRecord(text)
        case Picture(pixels):
            _check(pixels, np.uint8, 3)
            height, width, _ = pixels.shape
            return PictureRecord(height, width, pixels.tobytes())
        case Clip(pixels, seconds_per_frame):
            _check(pixels, np.uint8, 4)
            frames, height, width, _ = pixels.shape
            return ClipRecord(
                frames, height, width, seconds_per_frame, pixels.tobytes()
            )
        case Sound(samples):
            _check(samples, np.float32, 1)
            whole = np.round(np.clip(samples, -1, 1) * 32767)
            return SoundRecord(whole.astype("<i2").tobytes())


def _check(array: np.ndarray, dtype: type, dims: int) -> None:
    gray = dims == 1 or array.shape[-1:] == (1,)
    if array.dtype != dtype or array.ndim != dims or not gray:
        raise ValueError(
            f"a medium of {array.dtype}{list(array.shape)}; example.py says which "
            "type and shape each kind of part has"
        )


def decode(
    record: bytes, task: str, medium: Callable[[int], bytes], *, where: str
) -> Example:
    """Returns the example of a record; `medium` gives the record of a pooled medium.

    Raises: Corrupt, naming `where`, for bytes that encode() did not make."""
    found = _decoded(_EXAMPLE, record, where)
    return Example(
        task=task,
        entity=found.entity,
        prompt=tuple(_part(piece, medium, where) for piece in found.prompt),
        answer=found.answer,
        choices=found.choices,
    )


def _decoded(decoder: msgspec.msgpack.Decoder[T], record: bytes, where: str) -> T:
    if len(record) > RECORD_BYTES_MAX:
        raise Corrupt(f"{where}: {len(record)} bytes; at most {RECORD_BYTES_MAX}")
    try:
        return decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{where} is not a record of this store: {error}") from error


def _part(piece: Piece, medium: Callable[[int], bytes], where: str) -> Part:
    match piece:
        case PooledRecord(number):
            return _part(_decoded(_MEDIUM, medium(number), where), medium, where)
        case SaidRecord(text):
            return Said(text)
        case PictureRecord(height, width, pixels):
            return Picture(_pixels(pixels, (height, width, 1), where))
        case ClipRecord(frames, height, width, seconds, pixels):
            return Clip(_pixels(pixels, (frames, height, width, 1), where), seconds)
        case SoundRecord(samples):
            if len(samples) % 2:
                raise Corrupt(
                    f"{where}: a sound of {len(samples)} bytes, an odd number"
                )
            return Sound(np.frombuffer(samples, "<i2").astype(np.float32) / 32767)
        case str():
            return piece


def _pixels(pixels: bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    size = 1
    for length in shape:
        size *= length
    if size != len(pixels):
        raise Corrupt(f"{where}: {len(pixels)} bytes of pixels for a shape of {shape}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)
