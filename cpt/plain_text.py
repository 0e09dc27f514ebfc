"""What a model wrote, as plain text: without its thinking, markdown, HTML tags and LaTeX's text commands.

Every function takes time linear in the text.
"""

import re
import unicodedata

INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))
SAME = {0x2010: "-", 0x2011: "-", 0x2212: "-", 0x2018: "'", 0x2019: "'"}  # hyphens, the minus sign, single quotes
TAGS = (
    "answer|b|br|center|code|div|em|final|font|h[1-6]|i|label|li|mark|ol|output|p|pre|response|result|span|strong|u|ul"
)
TAG = re.compile(rf"</?(?:{TAGS})(?:\s[^<>\n]{{0,60}})?/?>", re.IGNORECASE)
ESCAPE = re.compile(r"\\(?=[_*#()\[\]-])")
MARKS = str.maketrans("", "", "*`$~")
TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|mathsf|mathit|textbf|textit|textrm|emph)\s?\{([^{}]{0,200})\}")
UNDERSCORES = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")  # not those within a word
# A letter or digit of a script that puts spaces between its words (so not Chinese, Japanese, Korean, Thai).
WORD = r"[^\W\u0e00-\u0fff\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
LINE_START = re.compile(r"^(?:[#>]{1,6} (?!\d)|[-+•] )+")  # of a heading, a quotation, a list


def after_thinking(text: str) -> str:
    """What follows the model's thinking (<think>...</think>); "" where that does not end."""
    answer = text.rpartition("</think>")[2]
    return "" if "<think>" in answer else answer


def inline(text: str) -> str:
    """The text in Unicode's NFKC form, without the markup that stands within a line."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(INVISIBLE | SAME)
    if "<" in text:
        text = TAG.sub("", text)
    if "\\" in text:
        text = ESCAPE.sub("", TEXT_COMMAND.sub(r"\1", text))
    return UNDERSCORES.sub("", text.translate(MARKS)) if "_" in text else text.translate(MARKS)


def without_markup(text: str) -> str:
    """The text's lines without markup; runs of white space are one space, and no line is empty."""
    lines = (" ".join(line.split()) for line in inline(text).splitlines())
    return "\n".join(kept for line in lines if (kept := LINE_START.sub("", line, count=1)))


def normal(label: str) -> str:
    """The form in which two labels are one: case folded, and words joined by one space whether by space, - or _."""
    plain = " ".join(without_markup(label).replace("_", " ").casefold().split())
    return re.sub(r" ?([^\w\s'+-]) ?", r"\1", re.sub(r"(?<=\w) ?- ?(?=\w)", " ", plain))
