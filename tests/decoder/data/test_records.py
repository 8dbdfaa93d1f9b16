"""Every part of an example survives its bytes; other bytes are refused, by name."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from twinstep.decoder.data import records
from twinstep.decoder.data.example import Clip, Example, Picture, Said, Sound
from twinstep.errors import Corrupt

EXAMPLE = Example(
    task="all",
    entity="digit 1 + voice a",
    prompt=(
        "what ",
        Picture(np.arange(6, dtype=np.uint8).reshape(2, 3, 1)),
        Said("two"),
        Clip(np.arange(8 * 64 * 64, dtype=np.uint8).reshape(8, 64, 64, 1), 0.5),
        Sound(np.linspace(-1, 1, 3000, dtype=np.float32)),
    ),
    answer="é three",
    choices=("a", "b"),
)


def encoded(example: Example) -> tuple[bytes, list[bytes]]:
    media: list[bytes] = []

    def pool(record: bytes) -> int:
        media.append(record)
        return len(media) - 1

    return records.encode(example, pool), media


def decoded(record: bytes, media: list[bytes]) -> Example:
    return records.decode(record, "all", media.__getitem__, where="file record 3")


def test_every_part_survives() -> None:
    record, media = encoded(EXAMPLE)
    assert len(media) == 2, "the clip and the sound are large"
    found = decoded(record, media)
    assert (found.entity, found.answer, found.choices) == (
        EXAMPLE.entity,
        EXAMPLE.answer,
        EXAMPLE.choices,
    )
    question, picture, said, clip, sound = found.prompt
    assert question == "what " and said == Said("two")
    assert isinstance(picture, Picture) and isinstance(clip, Clip)
    assert isinstance(sound, Sound)
    _, picture_before, _, clip_before, sound_before = EXAMPLE.prompt
    np.testing.assert_array_equal(picture.pixels, picture_before.pixels)
    np.testing.assert_array_equal(clip.pixels, clip_before.pixels)
    assert clip.seconds_per_frame == 0.5
    np.testing.assert_allclose(sound.samples, sound_before.samples, atol=1 / 32767)
    assert sound.samples.dtype == np.float32
    assert encoded(found) == (record, media), "a second turn changes nothing"


def test_no_damage_passes_unnoticed_as_another_error() -> None:
    record, media = encoded(EXAMPLE)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(record[: random.integers(1, len(record) + 1)])
        damaged[random.integers(len(damaged))] = random.integers(256)
        try:
            decoded(bytes(damaged), media)
        except Corrupt:
            refused += 1
        except IndexError:
            pass  # the list of media here has no bound of its own; the store's has
    assert refused > 1000


@pytest.mark.parametrize(
    ("piece", "says"),
    [
        (records.PictureRecord(4, 4, bytes(15)), "15 bytes of pixels"),
        (records.ClipRecord(2, 4, 4, 1.0, bytes(31)), "31 bytes of pixels"),
        (records.SoundRecord(bytes(3)), "3 bytes, an odd number"),
        (records.PictureRecord(0, 4, b""), "not a record"),
        (records.PictureRecord(1 << 40, 1, b""), "not a record"),
        (records.ClipRecord(1, 1, 1, -1.0, bytes(1)), "not a record"),
    ],
)
def test_a_length_is_not_trusted(piece: records.Medium, says: str) -> None:
    record = msgspec.msgpack.encode(records.ExampleRecord("e", (piece,), "a", ()))
    with pytest.raises(Corrupt, match=f"file record 3.*{says}"):
        decoded(record, [])


def test_a_medium_does_not_lead_to_another() -> None:
    piece = records.PooledRecord(0)
    record = msgspec.msgpack.encode(records.ExampleRecord("e", (piece,), "a", ()))
    with pytest.raises(Corrupt, match="not a record"):
        decoded(record, [msgspec.msgpack.encode(piece)])


@pytest.mark.parametrize(
    "part",
    [
        Picture(np.zeros((4, 4), np.uint8)),
        Picture(np.zeros((4, 4, 3), np.uint8)),
        Picture(np.zeros((4, 4, 1), np.float32)),
        Clip(np.zeros((4, 4, 1), np.uint8), 1.0),
        Sound(np.zeros(4, np.int16)),
    ],
)
def test_media_of_another_shape_are_not_written(part) -> None:
    example = Example(task="t", entity="digit 1", prompt=(part,), answer="a")
    with pytest.raises(ValueError, match="example.py says"):
        encoded(example)
