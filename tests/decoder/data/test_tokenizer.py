"""Any text comes back, ids are where the model expects them, training repeats."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tests.decoder.data.memory_store import PROSE, small_tokenizer
from twinstep.decoder.data.tokenizer import SPACE, Tokenizer, report, sample
from twinstep.decoder.model.segments import AUDIO, EOS, IMAGE
from twinstep.errors import UsageError

TOKENIZER = small_tokenizer()

FRENCH = [
    "Impossible d'ouvrir le fichier « été » : accès refusé à l'élève.",
    "La fenêtre a été fermée; l'opération a échoué après où çà.",
    "Êtes-vous sûr de vouloir supprimer ce répertoire protégé ?",
    "Le mot de passe doit être différent du précédent, répétez-le.",
]


@given(st.text())
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces  ",
        "\n\n\t\0x\r\n",
        f"a{SPACE}b {SPACE}",
        "日本語",
        "<unk> <s>",
        "x" * 5000,
        "\ufeff\u200b",
        "e\u0301",
    ],
)
def test_awkward_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_no_text_is_a_symbol() -> None:
    ids = TOKENIZER.encode("<image> <audio> <pad> <s> </s> <unk> <0x41>")
    assert all(number > AUDIO for number in ids)
    assert TOKENIZER.decode([IMAGE, *ids, EOS]) == TOKENIZER.decode(ids)


def test_digits_are_tokens_of_their_own() -> None:
    often = Tokenizer.train([*PROSE, "in 2024 " * 1000], vocabulary=400)
    assert len(often.encode("20242024")) == 8


def test_ids_that_are_no_text_decode_to_something() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("é")[:1]) == "\ufffd"


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    again = Tokenizer.train(PROSE, vocabulary=400, path=tmp_path / "tokenizer.model")
    assert again.model == TOKENIZER.model
    loaded = Tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.digest == TOKENIZER.digest
    other = Tokenizer.train(PROSE[1:], vocabulary=400)
    assert other.digest != TOKENIZER.digest


def test_a_changed_vocabulary_is_an_error_with_the_way_out() -> None:
    TOKENIZER.require(400)
    with pytest.raises(UsageError, match="400 pieces.*512.*vocabulary=512"):
        TOKENIZER.require(512)


@pytest.mark.parametrize("model", [b"", b"no model", TOKENIZER.model[:500]])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(UsageError, match="train one"):
        Tokenizer(model)


def test_no_file_and_too_little_text_say_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train one"):
        Tokenizer.load(tmp_path / "none")
    with pytest.raises(UsageError, match="vocabulary of 4000"):
        Tokenizer.train(PROSE[:3], vocabulary=4000)


def test_the_mixture_s_tokenizer_needs_fewer_tokens_for_what_is_not_english() -> None:
    """Gemini 1.0 report, section 4: trained on the entire corpus."""
    mixed = Tokenizer.train([*PROSE, *FRENCH[:2] * 20], vocabulary=400)
    held = {"fr": FRENCH[2:], "en": PROSE}
    alone, both = report(TOKENIZER, held), report(mixed, held)
    assert both["fr"].tokens < alone["fr"].tokens
    assert both["fr"].spelt < alone["fr"].spelt
    assert both["fr"].bytes == sum(len(text.encode()) for text in held["fr"])
    assert both["en"].bytes_per_token > 1.5


def test_a_sample_ends_and_no_question_fills_it() -> None:
    drawn = ["digit?"] * 1000 + [f"text {n}" for n in range(1000)]
    chosen = sample(drawn, bytes_max=2000)
    assert chosen.count("digit?") == 100
    assert 2000 <= sum(len(text) for text in chosen) < 2010
