"""When two prompts ask the same, as people would say: what does not show on paper does not count."""

import hashlib
import re
import unicodedata

# Unicode's Default_Ignorable_Code_Point, its interlinear marks, and control characters that are no white space.
NOT_SHOWN = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
INVISIBLE = re.compile(f"[{NOT_SHOWN}]+")
SHOWN = re.compile(f"[^\\s\u2800{NOT_SHOWN}]")
AT_END = re.compile(f"[{NOT_SHOWN}]+\\Z")
ALIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-")
    | {"\u2800": " "}  # a braille pattern without dots
)


def normal(text: str) -> str:
    """The text without what does not show: case, width and composition of characters, kinds of white space, of quotes and
    of dashes, and invisible characters."""
    text = INVISIBLE.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(ALIKE)
    return " ".join(text.casefold().split())


def key(text: str) -> bytes:
    """16 bytes that two texts share whose `normal` forms are the same."""
    return hashlib.blake2b(normal(text).encode(), digest_size=16).digest()


def shows(text: str) -> bool:
    """Whether anything of the text can be seen."""
    return SHOWN.search(text) is not None


def edges(text: str) -> str:
    """The invisible characters at the text's ends, by their code points; "" where there are none."""
    if text.isascii() and text.isprintable():
        return ""
    hidden = [match[0] for match in (INVISIBLE.match(text), AT_END.search(text)) if match]
    return ", ".join(dict.fromkeys(f"U+{ord(each):04X}" for part in hidden for each in part))
