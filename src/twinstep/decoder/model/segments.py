"""The batch: any mix of text, images, video frames and sound in one fixed shape.

An example is a list of segments. Rows hold several examples one after the other; an
image or a sound takes as many positions as it has soft tokens, and what the tower
reads lies beside the tokens, in pools of fixed size:

    tokens   BOS  How many  <image> <image> <image> <image>  ?  three EOS  BOS  ...
    segment   1   1  1      1       1       1       1        1  1     1    2
    block     0   1  2      3       3       3       3        4  5     6    0
    slot     -1  -1 -1      0       1       2       3       -1 -1    -1   -1

Position i attends to j if segment[i] == segment[j] and block[j] <= block[i]: within a
medium in both directions, else to the past (in local layers, to the last `window`
positions only). These vectors are all the structure there is: nowhere a T x T mask.
Variable resolution is a number of slots; video is images with time stamps between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import jax
import numpy as np

from twinstep.decoder.config import TowerConfig
from twinstep.errors import UsageError

PAD, UNKNOWN, BOS, EOS, IMAGE, AUDIO = range(6)
"""Token ids that every tokenizer of ours has; see data/tokenizer.py."""


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids; each is predicted with this weight in the loss (0: not at all)."""

    ids: Sequence[int]
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Image:
    """uint8[height, width, channels]; any size that the tower's grid holds."""

    pixels: np.ndarray


@dataclass(frozen=True, slots=True)
class Audio:
    """Log-mel frames, float[frames, mel], 100 a second (model/audio.py)."""

    frames: np.ndarray


Segment = Text | Image | Audio


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """Rows, and for each row positions and soft tokens of images and of sound."""

    rows: int
    tokens: int
    images: int
    audio: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One batch. B rows, T positions, S and A soft tokens of images and of sound, k
    patches of P bytes and r frames of M bins to a soft token.

    token     int32[B, T]    PAD where nothing is; IMAGE or AUDIO at soft positions
    segment   int32[B, T]    number of the example in its row, 0 for padding
    block     int32[B, T]    see above
    position  int32[B, T]    of RoPE; starts at 0 in each example
    slot      int32[B, T]    soft token here: 0..S-1 images, S..S+A-1 sound; -1: text
    weight    float32[B, T]  of predicting this token from the position before it; 0
                             for the first of an example and for soft positions
    patch     uint8[B, S, k, P], patch_at int32[B, S, k, 2] row and column in its image
    patch_doc int32[B, S]    number of the image in its row, 0 for padding
    frame     float16[B, A, r, M], frame_at int32[B, A, r] time in its sound, -1 padding
    frame_doc int32[B, A]    number of the sound in its row, 0 for padding
    """

    token: jax.Array | np.ndarray
    segment: jax.Array | np.ndarray
    block: jax.Array | np.ndarray
    position: jax.Array | np.ndarray
    slot: jax.Array | np.ndarray
    weight: jax.Array | np.ndarray
    patch: jax.Array | np.ndarray
    patch_at: jax.Array | np.ndarray
    patch_doc: jax.Array | np.ndarray
    frame: jax.Array | np.ndarray
    frame_at: jax.Array | np.ndarray
    frame_doc: jax.Array | np.ndarray


@dataclass(frozen=True, slots=True)
class Size:
    """What an example takes of a row."""

    tokens: int
    images: int
    audio: int

    def __add__(self, other: Size) -> Size:
        return Size(
            self.tokens + other.tokens,
            self.images + other.images,
            self.audio + other.audio,
        )

    def fits(self, shape: BatchShape) -> bool:
        return (
            self.tokens <= shape.tokens
            and self.images <= shape.images
            and self.audio <= shape.audio
        )


def size_of(example: Sequence[Segment], tower: TowerConfig) -> Size:
    """Returns what the example takes of a row. Raises: UsageError for an image that
    the tower has no positions for."""
    text = images = audio = 0
    for segment in example:
        match segment:
            case Text():
                text += len(segment.ids)
            case Image():
                images += _image_slots(segment, tower)
            case Audio():
                audio += -(-len(segment.frames) // tower.stack)
    return Size(text + images + audio, images, audio)


def _image_slots(image: Image, tower: TowerConfig) -> int:
    height, width, _ = image.pixels.shape
    side = tower.patch * tower.pool
    rows, columns = -(-height // side), -(-width // side)
    if max(rows, columns) * tower.pool > tower.grid:
        raise UsageError(
            f"an image of {height} x {width} pixels; the tower has positions for at "
            f"most {tower.grid * tower.patch} a side: scale it down"
        )
    return rows * columns


def empty(shape: BatchShape, tower: TowerConfig) -> Packed:
    """A batch of padding; what fill() fills, and a compiled step's shapes."""
    b, t, s, a = shape.rows, shape.tokens, shape.images, shape.audio
    k, r = tower.window, tower.stack
    return Packed(
        token=np.full((b, t), PAD, np.int32),
        segment=np.zeros((b, t), np.int32),
        block=np.zeros((b, t), np.int32),
        position=np.zeros((b, t), np.int32),
        slot=np.full((b, t), -1, np.int32),
        weight=np.zeros((b, t), np.float32),
        patch=np.zeros((b, s, k, tower.pixels), np.uint8),
        patch_at=np.zeros((b, s, k, 2), np.int32),
        patch_doc=np.zeros((b, s), np.int32),
        frame=np.zeros((b, a, r, tower.mel), np.float16),
        frame_at=np.full((b, a, r), -1, np.int32),
        frame_doc=np.zeros((b, a), np.int32),
    )


def fill(
    rows: Sequence[Sequence[Sequence[Segment]]], shape: BatchShape, tower: TowerConfig
) -> Packed:
    """Returns the batch of these rows of examples.

    Raises: UsageError when there are more rows than the shape has, or the examples of
        a row do not fit."""
    if len(rows) > shape.rows:
        raise UsageError(f"{len(rows)} rows for a batch of {shape.rows}")
    batch = empty(shape, tower)
    for number, examples in enumerate(rows):
        total = Size(0, 0, 0)
        for example in examples:
            total += size_of(example, tower)
        if not total.fits(shape):
            raise UsageError(
                f"row {number} needs {total.tokens} tokens, {total.images} image and "
                f"{total.audio} audio slots; the batch has {shape.tokens}, "
                f"{shape.images} and {shape.audio}"
            )
        _fill_row(batch, number, examples, shape, tower)
    return batch


def _fill_row(
    batch: Packed,
    row: int,
    examples: Sequence[Sequence[Segment]],
    shape: BatchShape,
    tower: TowerConfig,
) -> None:
    view = Packed(**{f.name: getattr(batch, f.name)[row] for f in fields(batch)})
    at = image_at = audio_at = images = sounds = 0
    for number, example in enumerate(examples, start=1):
        start, block = at, 0
        for segment in example:
            match segment:
                case Text():
                    size = len(segment.ids)
                    span = slice(at, at + size)
                    view.token[span] = segment.ids
                    view.weight[span] = segment.weight
                    view.block[span] = np.arange(block, block + size)
                    block += size
                case Image():
                    images += 1
                    patches, places = cut_image(segment.pixels, tower)
                    size = len(patches)
                    span, slots = (
                        slice(at, at + size),
                        slice(image_at, image_at + size),
                    )
                    view.token[span], view.block[span] = IMAGE, block
                    view.slot[span] = np.arange(slots.start, slots.stop)
                    view.patch[slots], view.patch_at[slots] = patches, places
                    view.patch_doc[slots] = images
                    image_at, block = slots.stop, block + 1
                case Audio():
                    sounds += 1
                    frames, times = cut_audio(segment.frames, tower)
                    size = len(frames)
                    span, slots = (
                        slice(at, at + size),
                        slice(audio_at, audio_at + size),
                    )
                    view.token[span], view.block[span] = AUDIO, block
                    view.slot[span] = shape.images + np.arange(slots.start, slots.stop)
                    view.frame[slots], view.frame_at[slots] = frames, times
                    view.frame_doc[slots] = sounds
                    audio_at, block = slots.stop, block + 1
            at += size
        view.segment[start:at] = number
        view.position[start:at] = np.arange(at - start)
        if at > start:
            view.weight[start] = 0.0


def cut_image(pixels: np.ndarray, tower: TowerConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8[soft, k, P] patches, those of one soft token together, and where
    each lies, int32[soft, k, 2]. What is missing to whole windows is 0 (black)."""
    height, width, channels = pixels.shape
    if channels != tower.channels:
        raise UsageError(
            f"an image with {channels} channels; the tower takes {tower.channels}"
        )
    patch, pool = tower.patch, tower.pool
    rows, columns = -(-height // (patch * pool)), -(-width // (patch * pool))
    padded = np.zeros((rows * pool * patch, columns * pool * patch, channels), np.uint8)
    padded[:height, :width] = pixels
    shape = (rows, pool, patch, columns, pool, patch, channels)
    order = (0, 3, 1, 4, 2, 5, 6)
    patches = padded.reshape(shape).transpose(order)
    soft, k = rows * columns, tower.window
    return patches.reshape(soft, k, tower.pixels), _places(rows, columns, pool)


@cache
def _places(rows: int, columns: int, pool: int) -> np.ndarray:
    """Row and column of each patch, int32[soft, k, 2]. Images have few sizes."""
    grid = np.stack(
        np.meshgrid(np.arange(rows * pool), np.arange(columns * pool), indexing="ij"),
        axis=-1,
    )
    places = grid.reshape(rows, pool, columns, pool, 2).transpose(0, 2, 1, 3, 4)
    return places.reshape(rows * columns, pool * pool, 2).astype(np.int32)


def cut_audio(frames: np.ndarray, tower: TowerConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns float16[soft, r, M] frames and their times int32[soft, r], -1 where the
    last soft token has no frame any more."""
    count, mel = frames.shape
    if mel != tower.mel:
        raise UsageError(f"frames of {mel} bins; the tower takes {tower.mel}")
    if count > tower.frames:
        raise UsageError(
            f"a sound of {count} frames; the tower has positions for {tower.frames}"
        )
    soft = -(-count // tower.stack)
    padded = np.zeros((soft * tower.stack, mel), np.float16)
    padded[:count] = frames
    times = np.full(soft * tower.stack, -1, np.int32)
    times[:count] = np.arange(count)
    return padded.reshape(soft, tower.stack, mel), times.reshape(soft, tower.stack)
