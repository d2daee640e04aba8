"""Names and texts that a reviewer takes for others: two names that look alike, words of letters from two scripts.

Names of services, policies and groups are ASCII, so that no letter of another script can stand in for one of theirs;
what is left to confuse there is `0` and `O`, `1`, `l` and `I`, `rn` and `m`, and upper and lower case. Owners, paths
and claims may hold any script, but no word of theirs mixes two, and no character of theirs is hidden. The rules are
those of Unicode Technical Standard #39 (Unicode Security Mechanisms): skeletons (section 4) for ASCII, and mixed-script
detection (section 5.1), by the names of the characters. This module decides nothing.
"""

from __future__ import annotations

import functools
import re
import unicodedata

_LETTERS = re.compile(r"[^\W\d_]+")
_ONE_SCRIPT = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"})
"""What UTS #39 section 5.2 lets stand beside each other and beside Latin: their letters do not look alike."""


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def skeleton(name: str) -> str:
    """What is left of an ASCII name when everything that looks alike is one: equal skeletons, confusable names."""
    return name.lower().replace("rn", "m").translate(_ALIKE)


_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l"})


def mixed_word(text: str) -> str | None:
    """The first word of a text that mixes letters of scripts which look alike; None when there is none.

    Combining marks belong to any script.
    """
    if text.isascii():
        return None
    for match in _LETTERS.finditer(text):
        scripts = {_script(char) for char in match.group()} - {""}
        if len(scripts) > 1 and not scripts <= _ONE_SCRIPT | {"LATIN"}:
            return match.group()
    return None


def hidden_character(text: str) -> str | None:
    """The first character that does not show: control, format, separators of lines; None when there is none."""
    if text.isprintable():
        return None
    return next((char for char in text if unicodedata.category(char) in _HIDDEN), None)


@functools.lru_cache(maxsize=4096)
def _script(char: str) -> str:
    """The script of a letter: the first word of its Unicode name; empty for marks and for what has no name."""
    if unicodedata.category(char) in {"Mn", "Mc", "Lm"}:
        return ""
    return unicodedata.name(char, "").partition(" ")[0]
