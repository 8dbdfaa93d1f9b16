"""Files become what a model reads, and what is no such file is refused by name."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinstep.decoder.answering import Question, read_clip, read_image, read_sound
from twinstep.decoder.config import TowerConfig
from twinstep.decoder.data.example import Clip, Picture, Sound
from twinstep.errors import UsageError

TOWER = TowerConfig(patch=4, grid=8)


def save_wav(path: Path, samples: np.ndarray, *, rate: int, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(samples.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def test_an_image_is_grey_and_no_larger_than_the_tower(tmp_path: Path) -> None:
    small = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)
    Image.fromarray(small).save(tmp_path / "small.png")
    assert (read_image(tmp_path / "small.png", TOWER).pixels[..., 0] == small).all()
    colours = np.zeros((64, 128, 3), np.uint8)
    colours[..., 1] = 255
    Image.fromarray(colours).save(tmp_path / "large.png")
    large = read_image(tmp_path / "large.png", TOWER).pixels
    assert large.shape == (16, 32, 1) and large.dtype == np.uint8
    assert (large == 150).all(), "the luma of green"


def test_a_clip_has_its_frames_and_their_time(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 100, 200)]
    frames[0].save(
        tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=250
    )
    clip = read_clip(tmp_path / "clip.gif", TOWER)
    assert clip.pixels.shape == (3, 8, 8, 1)
    assert clip.pixels[:, 0, 0, 0].tolist() == [0, 100, 200]
    assert clip.seconds_per_frame == 0.25


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_a_sound_is_between_minus_one_and_one(tmp_path: Path, kind: type) -> None:
    info = np.iinfo(kind)
    samples = np.array([info.min, (info.max + info.min + 1) // 2, info.max], kind)
    save_wav(tmp_path / "a.wav", samples, rate=16_000)
    found = read_sound(tmp_path / "a.wav").samples
    assert found.dtype == np.float32
    assert found == pytest.approx([-1, 0, 1], abs=0.01)


def test_channels_become_one_and_other_rates_16_000(tmp_path: Path) -> None:
    both = np.tile(np.array([[8000, -8000]], np.int16), (800, 1))
    save_wav(tmp_path / "a.wav", both, rate=8000, channels=2)
    found = read_sound(tmp_path / "a.wav").samples
    assert len(found) == 1600 and np.abs(found).max() < 1e-6


def test_media_come_before_the_text(tmp_path: Path) -> None:
    save_wav(tmp_path / "a.wav", np.zeros(160, np.int16), rate=16_000)
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    Image.new("L", (8, 8)).save(tmp_path / "c.gif")
    question = Question(
        text="same?",
        images=[tmp_path / "b.png"],
        clips=[tmp_path / "c.gif"],
        sounds=[tmp_path / "a.wav"],
    )
    kinds = [type(part) for part in question.parts(TOWER)]
    assert kinds == [Sound, Picture, Clip, str]
    assert Question(text="hello").parts(TOWER) == ("hello",)


@pytest.mark.parametrize("question", ["images", "clips", "sounds"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, question: str) -> None:
    path = tmp_path / "nonsense"
    for content in (None, b"", b"RIFF nonsense"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match="nonsense cannot be read"):
            Question(**{question: [path]}).parts(TOWER)
