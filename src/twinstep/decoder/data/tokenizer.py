"""Text to token ids and back, exactly, learnt from a sample of the whole mixture.

The Gemini 1.0 report (section 4): "training the tokenizer on a large sample of the
entire training corpus improves the inferred vocabulary". So it is trained on what the
mixture would show a model, not on English alone; report() measures what that saves.

SentencePiece does the learning. BPE, not unigram: on 2.0 MB of docstrings and code it
took 0.7 s where unigram took 12 to 27 s, with as many bytes to a token. Any text comes
back as it was: no normalisation, bytes for what has no piece. What SentencePiece itself
would lose is kept here: it takes U+2581 for a space (we spell it in bytes), and pads
and replaces when it decodes (we join the bytes of the pieces). Text never yields IMAGE
or AUDIO, whatever it says: these are control symbols.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from twinstep.decoder.model.segments import AUDIO, BOS, EOS, IMAGE, PAD, UNKNOWN
from twinstep.errors import UsageError

SPACE = "\u2581"
"""What SentencePiece writes for a space inside of a piece."""

SAMPLE_BYTES = 1_500_000
"""Of text that a tokenizer is trained on: under a second, and more gains little."""

SENTENCE_LETTERS = 1_000
REPEATS_MAX = 100
SHORT_LETTERS, SHORT_MAX = 32, 10_000
"""Questions, answers and time stamps come again and again; their ids are kept."""


class Tokenizer:
    """A SentencePiece model whose first ids are those of model/segments.py."""

    def __init__(self, model: bytes) -> None:
        """Raises: UsageError when these are no model of ours."""
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UsageError(
                f"{len(model)} bytes are no SentencePiece model ({error}); train one "
                "with `twinstep decoder tokenizer`"
            ) from None
        self._bytes = [self._bytes_of(number) for number in range(self.vocabulary)]
        self._at = {piece: number for number, piece in enumerate(self._names())}
        expected = {"<pad>": PAD, "<unk>": UNKNOWN, "<s>": BOS, "</s>": EOS}
        expected |= {"<image>": IMAGE, "<audio>": AUDIO, "<0x00>": AUDIO + 1}
        found = {piece: self._at.get(piece) for piece in expected}
        if found != expected:
            raise UsageError(
                f"a SentencePiece model with {found}; ours have {expected}: train one "
                "with `twinstep decoder tokenizer`"
            )
        self._short: dict[str, tuple[int, ...]] = {}
        self._space = [self._at[f"<0x{byte:02X}>"] for byte in SPACE.encode()]

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocabulary: int, path: Path | None = None
    ) -> Tokenizer:
        """Returns a tokenizer with `vocabulary` pieces learnt from the texts, and
        writes it to `path`. The same texts in the same order give the same bytes.

        Raises: UsageError when the texts are too few for so many pieces."""
        written = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=iter(_sentences(texts)),
                model_writer=written,
                model_type="bpe",
                vocab_size=vocabulary,
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_by_unicode_script=False,
                split_digits=True,
                pad_id=PAD,
                unk_id=UNKNOWN,
                bos_id=BOS,
                eos_id=EOS,
                control_symbols=["<image>", "<audio>"],
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UsageError(
                f"a vocabulary of {vocabulary} cannot be learnt from these texts: it "
                "needs 262 pieces for bytes and symbols, one for each common letter, "
                f"and enough text for the rest. SentencePiece says: {error}"
            ) from None
        tokenizer = cls(written.getvalue())
        if path is not None:
            path.write_bytes(tokenizer.model)
        return tokenizer

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Returns the tokenizer in this file. Raises: UsageError when there is none."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise UsageError(
                f"no tokenizer at {path} ({error}); train one with "
                "`twinstep decoder tokenizer`"
            ) from None

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return self._pieces.GetPieceSize()

    @property
    def digest(self) -> str:
        """Names the tokenizer: what was prepared with another one is made anew."""
        return hashlib.sha256(self.model).hexdigest()[:16]

    def require(self, vocabulary: int) -> None:
        """Raises: UsageError unless a model of this vocabulary can use it."""
        if vocabulary != self.vocabulary:
            raise UsageError(
                f"the tokenizer has {self.vocabulary} pieces and the model "
                f"{vocabulary}; train a tokenizer with vocabulary={vocabulary}, or a "
                f"model with resized(config, vocabulary={self.vocabulary})"
            )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of the text; decode() of them is the text."""
        if len(text) > SHORT_LETTERS:
            return self._encoded(text)
        if text not in self._short:
            if len(self._short) >= SHORT_MAX:
                self._short.clear()
            self._short[text] = tuple(self._encoded(text))
        return list(self._short[text])

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(SPACE)):
            if number:
                ids += self._space
            if part:
                ids += self._pieces.EncodeAsIds(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids. What a model made need not be text: symbols are
        left out, and bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes that the ids stand for, also those of half a letter."""
        return b"".join(self._bytes[number] for number in ids)

    def _names(self) -> list[str]:
        return [self._pieces.IdToPiece(n) for n in range(self.vocabulary)]

    def _bytes_of(self, number: int) -> bytes:
        piece: str = self._pieces.IdToPiece(number)
        if self._pieces.IsByte(number):
            return bytes([int(piece[3:5], 16)])
        if self._pieces.IsControl(number) or self._pieces.IsUnknown(number):
            return b""
        return piece.replace(SPACE, " ").encode()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces that SentencePiece takes: it passes over long ones, and over
    those with a tab or a zero, which it uses itself."""
    for text in texts:
        clean = text.replace("\t", "    ").replace("\0", "")
        for start in range(0, len(clean), SENTENCE_LETTERS):
            yield clean[start : start + SENTENCE_LETTERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fertility:
    """How well a tokenizer fits one source of text."""

    source: str
    bytes: int
    tokens: int
    spelt: int
    """Tokens that are single bytes of what has no piece."""

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else 0.0


def report(
    tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]
) -> dict[str, Fertility]:
    """Returns for each source (a task, a language) what its texts become."""
    first, last = AUDIO + 1, AUDIO + 256
    found: dict[str, Fertility] = {}
    for source, some in texts.items():
        ids = [number for text in some for number in tokenizer.encode(text)]
        found[source] = Fertility(
            source=source,
            bytes=sum(len(text.encode()) for text in some),
            tokens=len(ids),
            spelt=sum(first <= number <= last for number in ids),
        )
    return found


def sample(drawn: Iterable[str], *, bytes_max: int = SAMPLE_BYTES) -> list[str]:
    """Returns texts in the order in which the mixture draws them, until they are
    `bytes_max` bytes. What every example of a task says (its question) counts
    `REPEATS_MAX` times at most, or it would crowd out the rest."""
    chosen: list[str] = []
    seen: dict[str, int] = defaultdict(int)
    size = 0
    for text in drawn:
        if size >= bytes_max:
            break
        seen[text] += 1
        if text and seen[text] <= REPEATS_MAX:
            chosen.append(text)
            size += len(text.encode())
    return chosen
