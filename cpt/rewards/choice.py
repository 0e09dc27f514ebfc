"""1 where the letter that the completion chooses is the row's answer, 0 otherwise.

Thinking and markup are taken off. Then the first of these places that names a letter decides:

1. `\\boxed{B}` and `<answer>B</answer>`, the last one;
2. what is stated as the answer, the last one: "answer: B", "the correct option is (B)", "I choose B", "so it is B";
3. what is called right: "B is correct";
4. lines that are a letter or begin with one: "B", "(B)", "b) Paris", "B: A man walked by.";
5. any other letter in brackets, and upper-case ones that stand alone.

From 3 on there must be one letter only, and what is denied ("not A", "A is wrong") never counts. Letters that are named
together ("A or B", "A, C") are no choice. "A" and "I" before a word are words, and lower-case letters and digits count in
brackets, or in the places 1, 2 and 4 where punctuation or the line's end follows. Without a choice a completion is wrong.
"""

import re
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

from cpt.plain_text import TEXT_COMMAND, WORD, after_thinking, without_markup

NEAR = 50  # characters before and after a letter that are looked at
MARKED = re.compile(r"\\f?boxed ?\{([^{}]{0,200})\}|<answer>([^<]{0,200})</answer>", re.IGNORECASE)
EMPHASISED = re.compile(r"(?<![\w*_`])(\*{1,3}|_{1,3}|`)([^\W_])\1(?![\w*_`])")  # "**B** Paris" is "(B) Paris"
QUOTED = re.compile(r"(?<![^\W_])'([^\W_])'(?![^\W_])")  # {'answer': 'B'}
ANGLED = re.compile(r"(?<!\w)<([^\W_])>")  # "<B>", which could be HTML for bold: only where no </B> follows
TURN = re.compile(r"(?:^|(?<=[?.] ))A: ?(?=[(\[]?\w[)\]]?\.?$)", re.MULTILINE)  # "A: B" after a "Q:"
PREFIX = r"(?:option|choice|answer|letter|statement) "
NOUN = (
    r"(?:\b(?:answers?|ans|options?|choices?|letter|selection|solution|guess|pick|verdict|conclusion|respuesta|antwort|r[ée]ponse|"
    r"risposta|resposta|ответ)\b|答案|选项|选择?|答え|정답)[\"']?(?: [a-z0-9'-]{1,14}){0,6}?"
)
LINK = (
    r"(?:(?<=选)|(?<=选择)|\s?(?::|=|=>|->|→|⇒|-|–|—|是|为|為|は|은|는)|"
    r" (?:is|are|was|would be|should be|must be|has to be|will be|es|ist|est|è|é)\b):?"
)
FILLER = (
    r"(?:\s?(?:therefore|thus|clearly|definitely|certainly|probably|likely|most|actually|indeed|simply|then|the|option|choice|"
    r"letter|answer|statement|number|la|le|el|die|der|das|lettre|letra|buchstabe|opción|opção)\b:?){0,3}\s?"
)
TAKES = (
    r"\b(?:choose|chose|pick|picked|select|selected|go with|going with|opt for|settle on|answer with|"
    r"i think|i believe|i guess|i'd say|i would say)(?: (?:it is|it's|that))? (?:the )?"
)
CONCLUDES = r"\b(?:so|thus|therefore|hence|conclude),?(?: that)?(?: (?:it is|it's|it must be|that's|that is))? "
STATED = rf"(?:{NOUN}{LINK}{FILLER}|(?:{TAKES}|{CONCLUDES})(?:{PREFIX})?)"
UNSURE = re.compile(
    r"\b(?:if|whether|why|unless|suppose|assume|assuming|could|might|is) (?:that )?(?:the |my )?(?:\w+ )?$", re.I
)
NOT = r"(?:\b(?:not|wrong|incorrect|false|never|cannot|worst|first|no)\b|n't)"
NOT_INSIDE = re.compile(NOT)
NOT_NOUN = re.compile(rf"{NOT}(?: \w+){{0,2}} $")
NOT_BEFORE = re.compile(
    r"(?:\b(?:not|never|cannot|neither|nor|eliminate|exclude|excluding|except|rule out|ruled out|discard|reject|incorrect|"
    r"wrong|false|(?:rather|other) than|instead of|(?:all|any|anything|everything) but)|n't):?"
    rf"(?: (?:be|the|a|really|necessarily|choose|pick|select|both|either)){{0,2}} (?:{PREFIX})?$",
)
VERB = r"(?:is|are|was|would be|seems|looks|must be|should be|can be|could be)"
ADVERB = (
    r"(?:the|most|clearly|definitely|likely|probably|only|my|best|single|therefore|thus|actually|indeed|also|obviously)"
)
RIGHT = re.compile(
    rf"[)\]\"'.:]{{0,2}},? {VERB}(?: {ADVERB}){{0,4}} (?:correct|right|answer|choice|option)\b|[)\]]? is (?:the )?best\b",
)
WRONG = r"(?:wrong|incorrect|false|impossible|eliminated|(?:ruled )?out|invalid|implausible|unlikely|a distractor|too)"
NOT_AFTER = re.compile(
    rf"[)\]\"'.:]{{0,2}},? {VERB}(?: {ADVERB}| just| both| all){{0,2}} (?:not|never|{WRONG})\b"
    r"|[)\]\"'.:]{0,2},? (?:isn't|aren't|wasn't|doesn't|don't|can't|cannot|won't|fails?|does not|do not|can not)\b"
    rf"|[)\]]? ?[:(–—-] ?(?:not (?:correct|right|true|possible|the)|no|{WRONG})\b|[)\]]? {WRONG}\b|[)\]]?\?\s*\S",
)
TOGETHER = re.compile(
    r"[)\]]{0,2}(?: ?[/&+] ?| (?:and|or|as well as|oder|und|et|ou|nor) )(?:both |either )?(?:" + PREFIX + r")?", re.I
)
COMMA = re.compile(r"[)\]]{0,2}, ?(?:and |or )?")
LISTED = re.compile(r"[)\]]{0,2}(?:[,.;!]|$|\n| and\b| or\b)")
ENDED = re.compile(r"[)\]]{0,2}(?:[.:;!?)\]\"'。]|$|\n| [-–—] )")
LINE_ENDED = re.compile(r"[)\]]{0,2}(?:。|[.:)\]](?=\s|$)|\n|$| [-–—] |[!?,]| because\b| since\b)")
PREFIXED = re.compile(rf"\b{PREFIX}$")
FOLLOWED = re.compile(  # by a word that makes the letter one
    r" (?!(?:because|since|as|is|are|isn't|aren't|and|or|for|but|due|which|not|while|was|also|would|could|should|must|may|"
    r"can|can't|cannot|does|doesn't|fits|seems|rather|instead|over)\b)\w"
)
LEADS_TO = re.compile(  # what may stand before a letter that is a choice: "it must be B"; not "vitamin B"
    r"(?:^|\n|[^\w\s] ?|"
    r"\b(?:is|are|be|was|it's|that's|say|think|guess|believe|with|for|probably|definitely|clearly|likely|therefore|thus|hence|"
    r"so|then|not|n't|or|and|both|either|neither|nor|only|just|leaves|leaving|remains|of|out|than|except|exclude|eliminate|"
    r"discard|reject|between|among|to|favor|favour|but) )$",
)


@dataclass
class Mention:
    """A letter, or several that are named together, somewhere in the text."""

    letters: set[str]
    start: int
    end: int
    stated: bool
    right: bool
    begins_line: bool
    denied: bool


def reader(spec: dict):
    """spec: choices, e.g. "ABCD"."""
    letters = spec.get("choices", "ABCD")
    either = "[" + "".join(dict.fromkeys(letters.upper() + letters.lower())) + "]"
    one = rf"{either}(?!{WORD}|[&°#+%]|['-]{WORD}|[.,]\w)"
    letter = re.compile(rf"(?<!{WORD})(?<![.&+°'-])(?<!\d )(?<!{WORD}[(\[])([(\[]{{0,2}})({one})([)\]]?)")
    stated = re.compile(rf"{STATED}[\"']?(?=[(\[]{{0,2}}{one})")

    def chosen(completion: str, row: dict) -> str | None:
        if not row.get("finished", True):
            return None  # cut off at the limit: no answer
        text = after_thinking(completion)
        for boxed, marked in reversed(MARKED.findall(TEXT_COMMAND.sub(r"\1", text))):
            mentioned = mentions(without_markup(boxed or marked), letter, stated)
            if mentioned and mentioned[0].begins_line:
                return only(mentioned[0].letters)
        text = without_markup(EMPHASISED.sub(r"(\2)", with_brackets(text)))
        return decided(mentions(TURN.sub("", text), letter, stated))

    return chosen


def with_brackets(text: str) -> str:
    """'B' and <B> as (B)."""
    closed = text.lower()
    text = ANGLED.sub(lambda match: match[0] if f"</{match[1].lower()}>" in closed else f"({match[1]})", text)
    return QUOTED.sub(r"(\1)", text)


def decided(mentioned: list[Mention]) -> str | None:
    """The letter that the mentions of a text choose."""
    kept = [each for each in mentioned if not each.denied]
    stated = [each for each in kept if each.stated]
    if stated:
        return only(stated[-1].letters)
    for some in ([each for each in kept if each.right], [each for each in kept if each.begins_line], kept):
        if some:
            return only(set().union(*(each.letters for each in some)))
    return None


def only(letters: set[str]) -> str | None:
    return next(iter(letters)) if len(letters) == 1 else None


LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # keeps the length, which str.lower does not


def mentions(text: str, letter: re.Pattern, stated: re.Pattern) -> list[Mention]:
    """All mentions of letters in a plain text, in their order."""
    low = text.translate(LOWER)
    statements = {each.end(): each for each in stated.finditer(low)}
    mentioned: list[Mention] = []
    for match in letter.finditer(text):
        mention = mention_at(low, match, statements.get(match.start()))
        if mention is None:
            continue
        between = (
            low[mentioned[-1].end : mention.start] if mentioned and mention.start - mentioned[-1].end < NEAR else None
        )
        if between is not None and (
            TOGETHER.fullmatch(between) or (COMMA.fullmatch(between) and LISTED.match(low, mention.end))
        ):
            last = mentioned[-1]
            last.letters |= mention.letters
            last.end, last.right = mention.end, last.right or mention.right
            last.denied |= mention.denied
        else:
            mentioned.append(mention)
    return mentioned


def mention_at(text: str, match: re.Match, statement: re.Match | None) -> Mention | None:
    """What is said of the letter there; None where it is a word, or a lower-case letter that stands for nothing."""
    opened, letter, closed = match.groups()
    start, end = match.start(), match.end(2)
    before, after = text[max(0, start - NEAR) : start], text[end : end + NEAR]
    named = PREFIXED.search(before)
    rest = before[: named.start()] if named else before
    begins = not rest or rest.endswith("\n")
    if not (opened and closed):
        if not letter.isupper() and not ((statement or begins or named) and ENDED.match(after)):
            return None
        if not named and FOLLOWED.match(after):
            return None  # "A man", "B sides"
        if not (statement or begins or named or LEADS_TO.search(before)):
            return None  # "vitamin C"
    return Mention(
        letters={letter.upper()},
        start=start,
        end=end,
        stated=statement is not None,
        right=bool(RIGHT.match(after)),
        begins_line=bool(begins and LINE_ENDED.match(after)),
        denied=bool(NOT_BEFORE.search(before) or NOT_AFTER.match(after) or (statement and is_doubted(text, statement))),
    )


def is_doubted(text: str, statement: re.Match) -> bool:
    before = text[max(0, statement.start() - NEAR) : statement.start()]
    return bool(NOT_INSIDE.search(statement[0]) or UNSURE.search(before) or NOT_NOUN.search(before))


def wanted(answer: str) -> str:
    """The letter that a row's answer names."""
    return without_markup(answer).strip(" ()[].:").upper()


def build(spec: dict):
    chosen = reader(spec)

    def choice(completion: str, row: dict) -> float:
        return float(chosen(completion, row) == wanted(row["answer"]))

    return choice


def problem(spec: dict):
    """See `verifiers.problem`."""
    letters = spec.get("choices", "ABCD")

    def unreadable(answer: str) -> str | None:
        if wanted(answer) in [*letters.upper()]:
            return None
        return f"it is none of the choices {', '.join(letters)}: write the letter, or name the letters with `choices`"

    return unreadable
