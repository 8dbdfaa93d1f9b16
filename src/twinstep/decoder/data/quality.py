"""Which texts are not worth training on, and why: rules that measure one thing each.

The Gemini 1.0 report (section 4): "quality filters to all datasets, using both
heuristic rules and model-based classifiers". These are the heuristic rules. It does not
say which; most of ours are those of Gopher (Rae et al. 2021), C4 (Raffel et al. 2020),
FineWeb (Penedo et al. 2024) and, for code, Codex (Chen et al. 2021), with bounds moved
to where they part short technical texts from the same texts made bad (corrupt.py).

A rule is a measure and the numbers that it may have. Nothing is removed without a
Verdict: the rule's name, what was measured, what is allowed. Rules look at one text at
a time and know no meaning: words in a wrong order pass them all.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from twinstep.decoder.data.example import Example


@dataclass(frozen=True, slots=True)
class Rule:
    """What is measured, and the numbers that are allowed, both ends included. Without
    `least` words there is nothing to measure, and nothing is said."""

    name: str
    measure: Callable[[str], float]
    low: float = -inf
    high: float = inf
    least: int = 0
    source: str = "our own"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why something is not worth training on."""

    rule: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rule} {self.value:.3g}, allowed {self.low:g} to {self.high:g}"


def _words(text: str) -> list[str]:
    return text.split()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def word_count(text: str) -> float:
    return len(_words(text))


def mean_word_length(text: str) -> float:
    words = _words(text)
    return sum(map(len, words)) / len(words)


def symbols_per_word(text: str) -> float:
    """Signs that prose seldom has, for each word."""
    found = sum(text.count(sign) for sign in "#…{}<>|\\^~$@")
    return found / len(_words(text))


def words_with_letter(text: str) -> float:
    words = _words(text)
    return sum(any(c.isalpha() for c in word) for word in words) / len(words)


STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "the be to of and that have with is a in for this or it if not are by an on",
    )
)


def stop_words(text: str) -> float:
    """Share of words that join others: what every English sentence has."""
    words = [word.strip(".,;:()").lower() for word in _words(text)]
    return sum(word in STOP_WORDS for word in words) / len(words)


def repeated_lines(text: str) -> float:
    """Share of letters in lines that were there before."""
    lines = _lines(text)
    again = sum(len(line) * (count - 1) for line, count in Counter(lines).items())
    return again / max(1, sum(map(len, lines)))


def repeated_phrases(text: str) -> float:
    """Share of four-word phrases that were there before."""
    words = _words(text)
    phrases = Counter(tuple(words[i : i + 4]) for i in range(len(words) - 3))
    total = sum(phrases.values())
    return 1 - len(phrases) / total if total else 0.0


def ellipsis_lines(text: str) -> float:
    lines = _lines(text)
    cut = sum(line.endswith(("...", "…")) for line in lines)
    return cut / max(1, len(lines))


BOILERPLATE = re.compile(
    r"lorem ipsum|enable javascript|use of cookies|accept (all )?cookies|privacy policy"
    r"|terms of (use|service)|all rights reserved|sign up for|click here|read more"
    r"|log ?in to (your|continue)|subscribe (to|now)|share on (facebook|twitter)",
    re.IGNORECASE,
)


def boilerplate(text: str) -> float:
    """Phrases of a page around its text, for every hundred words."""
    return len(BOILERPLATE.findall(text)) * 100 / max(20, len(_words(text)))


MISREAD = re.compile(
    "[\u00c2\u00c3\u00e2][\u0080-\u00bf\u20ac\u2122\u0153\u201a-\u201e]"
)


def misread(text: str) -> float:
    """Letters that come of a wrong encoding, and control characters."""
    control = sum((c < " " and c not in "\n\t\r\f") or c == "\ufffd" for c in text)
    return control + len(MISREAD.findall(text))


PROSE = (
    Rule("words", word_count, low=5, high=100_000, source="Gopher, from 50"),
    Rule("misread", misread, high=0),
    Rule("mean_word_length", mean_word_length, 2.5, 12, 5, "Gopher, from 3 to 10"),
    Rule("symbols_per_word", symbols_per_word, high=0.5, least=5, source="Gopher, 0.1"),
    Rule("words_with_letter", words_with_letter, 0.55, inf, 5, "Gopher, from 0.8"),
    Rule("stop_words", stop_words, 0.06, inf, 25, "Gopher, two of eight words"),
    Rule("repeated_lines", repeated_lines, high=0.3, source="Gopher, 0.2"),
    Rule("repeated_phrases", repeated_phrases, high=0.3, least=12, source="Gopher"),
    Rule("ellipsis_lines", ellipsis_lines, high=0.3, source="Gopher"),
    Rule("boilerplate", boilerplate, high=1.9, source="C4, by line"),
)


def parses(text: str) -> float:
    """1: Python. 0.5: a piece of it, with all strings and brackets closed. 0: not."""
    text = textwrap.dedent(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
        return 1.0
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.ERRORTOKEN and token.string.strip():
                return 0.0
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
    except (tokenize.TokenError, SyntaxError):
        return 0.0
    return 0.5 if depth == 0 else 0.0


def longest_line(text: str) -> float:
    return max(map(len, text.splitlines()), default=0)


def letters(text: str) -> float:
    """Share of letters and digits in all that is not white space."""
    solid = "".join(text.split())
    return sum(c.isalnum() or c == "_" for c in solid) / max(1, len(solid))


def comments(text: str) -> float:
    """Share of lines that are comments."""
    lines = _lines(text)
    return sum(line.startswith("#") for line in lines) / max(1, len(lines))


GENERATED = re.compile(r"auto-?\s?generated|do not edit|generated by", re.IGNORECASE)


def generated(text: str) -> float:
    return len(GENERATED.findall("\n".join(text.splitlines()[:5])))


CODE = (
    Rule("words", word_count, low=3, high=100_000),
    Rule("misread", misread, high=0),
    Rule("parses", parses, low=0.5),
    Rule("longest_line", longest_line, high=400, source="Codex, 1,000"),
    Rule("letters", letters, low=0.45, source="Codex, 0.25"),
    Rule("comments", comments, high=0.8),
    Rule("generated", generated, high=0, source="Codex"),
    Rule("repeated_lines", repeated_lines, high=0.4, source="Gopher, 0.2"),
)

PLACEHOLDER = re.compile(r"%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]|\{[a-z_0-9]*\}")


def pair_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules for a translation: they measure the pair, whatever text is passed."""

    def ratio(_: str) -> float:
        # A few letters more or less say nothing of a short message.
        return (len(target) + 10) / (len(source) + 10)

    def same(_: str) -> float:
        return float(source == target and len(_words(source)) > 2)

    def placeholders(_: str) -> float:
        one = Counter(PLACEHOLDER.findall(source))
        two = Counter(PLACEHOLDER.findall(target))
        return sum(((one - two) + (two - one)).values())

    return (
        Rule("empty", lambda _: min(len(source), len(target)), low=1),
        Rule("misread", lambda _: misread(source) + misread(target), high=0),
        Rule("length_ratio", ratio, 0.4, 2.5),
        Rule("same", same, high=0),
        Rule("placeholders", placeholders, high=0),
    )


def judge(text: str, rules: Iterable[Rule]) -> list[Verdict]:
    """Returns a verdict for each rule that the text fails; none: it is kept."""
    count = len(_words(text))
    found: list[Verdict] = []
    for rule in rules:
        if count < max(rule.least, 1) and rule.name not in ("words", "empty"):
            continue
        value = rule.measure(text)
        if not rule.low <= value <= rule.high:
            found.append(Verdict(rule.name, value, rule.low, rule.high))
    return found


def judge_example(example: Example) -> list[Verdict]:
    """Returns verdicts on an example of one of the text sources; of other tasks, whose
    texts are made by rule, none."""
    match example.task:
        case "docstring" | "docstring_science":
            return judge(example.answer, PROSE)
        case "code":
            return judge(example.answer, CODE)
        case "translation_text":
            asked = " ".join(part for part in example.prompt if isinstance(part, str))
            source = asked.rpartition(" ")[0]  # without "fr?"
            return judge(source, pair_rules(source, example.answer))
        case _:
            return []


TEXT_TASKS = ("docstring", "docstring_science", "code", "translation_text")
