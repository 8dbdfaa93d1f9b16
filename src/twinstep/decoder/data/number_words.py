"""Numbers from 0 to 999 in English and in French words."""

from __future__ import annotations

# fmt: off
_ENGLISH = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
    "seventeen", "eighteen", "nineteen",
)
_ENGLISH_TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)
_FRENCH = (
    "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf",
    "dix", "onze", "douze", "treize", "quatorze", "quinze", "seize", "dix-sept",
    "dix-huit", "dix-neuf",
)
_FRENCH_TENS = ("vingt", "trente", "quarante", "cinquante", "soixante")
# fmt: on


def english(number: int) -> str:
    """Returns `three hundred forty-five` for 345; 0 <= number < 1000."""
    hundreds, rest = divmod(number, 100)
    if hundreds:
        head = f"{_ENGLISH[hundreds]} hundred"
        return f"{head} {english(rest)}" if rest else head
    if rest < 20:
        return _ENGLISH[rest]
    tens, ones = divmod(rest, 10)
    word = _ENGLISH_TENS[tens - 2]
    return f"{word}-{_ENGLISH[ones]}" if ones else word


def french(number: int) -> str:
    """Returns `trois cent quarante-cinq` for 345; 0 <= number < 1000. France's words
    (soixante-dix, quatre-vingts), written as before the reform of 1990."""
    hundreds, rest = divmod(number, 100)
    if hundreds:
        head = "cent" if hundreds == 1 else f"{_FRENCH[hundreds]} cent"
        if not rest:
            return head if hundreds == 1 else f"{head}s"
        return f"{head} {french(rest)}"
    if rest < 20:
        return _FRENCH[rest]
    if rest == 80:
        return "quatre-vingts"
    if rest > 80:
        return f"quatre-vingt-{_FRENCH[rest - 80]}"
    tens, ones = divmod(rest, 10)
    if tens == 7:
        tens, ones = 6, ones + 10
    word = _FRENCH_TENS[tens - 2]
    if not ones:
        return word
    link = " et " if ones in (1, 11) else "-"
    return f"{word}{link}{_FRENCH[ones]}"
