"""Which texts share runs of words with questions: n-grams hashed with numpy, and the share of a question that they cover.

Texts are compared as `prompt_keys.normal` shows them, as words and symbols, without punctuation. An n-gram that stands in
more than `COMMON` questions is a template's, and neither it nor its words count (GPT-3 leaves out 13-grams of more than 10
documents, 2005.14165). What is measured is the share of a question's words that n-grams of one text cover, as in Tulu 3
(2411.15124, which takes 8-grams and half of the words). A question of 8 to n words has one n-gram, which is all of it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cpt.data.prompt_keys import normal

TOKEN = re.compile(r"\w+|[^\w\s.,;:!?'\"()\[\]]")
COMMON = 10  # questions
SHORT = 8  # words: a question of fewer stands in many texts by chance, and is compared as a whole prompt alone
BATCH = 1 << 21  # words that are hashed at once
TABLE_BITS = 27  # of the table that rules most n-grams out


def words(text: str) -> list[str]:
    return TOKEN.findall(normal(text))


@dataclass(frozen=True)
class Overlap:
    """Text number `text` covers `share` of question number `question`; `shared` is the longest run of words in common."""

    text: int
    question: int
    share: float
    shared: str


class Questions:
    """The questions of evaluations, to be looked for in other texts; numbers are places in `texts`.

    Args:
        texts: the questions.
        n: words of an n-gram.
    """

    def __init__(self, texts: Iterable[str], n: int):
        self.n = n
        self.known: dict[str, int] = {}  # numbers of words, from 1; 0 is any other
        self.words: list[np.ndarray] = []
        for text in texts:
            mine = [self.known.setdefault(word, len(self.known) + 1) for word in words(text)]
            self.words.append(np.array(mine, np.uint32))
        draw = np.random.default_rng(0).integers(1, 2**64, len(self.known) + 1, np.uint64)
        self.values = draw | np.uint64(1)
        self.sizes = sorted({min(n, len(each)) for each in self.words if len(each) >= SHORT}, reverse=True)
        self.tables = {size: self.table(size) for size in self.sizes}
        self.names: list[str] | None = None

    def table(self, size: int) -> "Table":
        """The n-grams of `size` words: of all questions of at least n words, or of all that have so many."""
        mine = [
            number for number, each in enumerate(self.words) if len(each) >= SHORT and min(self.n, len(each)) == size
        ]
        hashes, owners, starts = [], [], []
        for batch in batches((number, self.words[number]) for number in mine):
            numbers, first, joined = batch
            found = hashed(self.values[joined], size)
            places = np.arange(len(found))
            row = np.searchsorted(first, places, side="right") - 1
            start = places - first[row]
            inside = start + size <= np.diff(np.append(first, len(joined)))[row]
            hashes.append(found[inside])
            owners.append(numbers[row[inside]])
            starts.append(start[inside])
        return Table(*(np.concatenate(each) for each in (hashes, owners, starts)))

    def overlaps(self, texts: Iterable[str], share: float) -> Iterator[Overlap]:
        """Of each text, the question of which it covers most, if that is at least `share`."""
        known = self.known.get
        numbered = (
            (number, np.array([known(word, 0) for word in words(text)], np.uint32)) for number, text in enumerate(texts)
        )
        for numbers, first, joined in batches(numbered):
            yield from self.of_batch(numbers, first, joined, share)

    def of_batch(self, numbers: np.ndarray, first: np.ndarray, joined: np.ndarray, share: float) -> Iterator[Overlap]:
        best: dict[int, Overlap] = {}
        values, strange = self.values[joined], np.concatenate([[0], np.cumsum(joined == 0)])
        ends = np.append(first, len(joined))
        for size, table in self.tables.items():
            if len(joined) < size:
                continue
            found = hashed(values, size)
            places = np.flatnonzero((strange[size:] == strange[:-size]) & table.may_hold(found))
            row = np.searchsorted(first, places, side="right") - 1
            inside = places + size <= ends[row + 1]
            places, row = places[inside], row[inside]
            for text, question, starts in table.matches(found[places], row):
                covered = np.zeros(len(self.words[question]), bool)
                for start in starts:
                    covered[start : start + size] = True
                own = table.own_words(question, len(covered), size)
                if own.sum() < SHORT:
                    continue
                part = float((covered & own).sum() / own.sum())
                if part >= share and (text not in best or part > best[text].share):
                    best[text] = Overlap(int(numbers[text]), question, part, self.text(question, longest(covered)))
        yield from (best[text] for text in sorted(best))

    def text(self, question: int, span: slice) -> str:
        if self.names is None:
            self.names = ["", *self.known]
        return " ".join(self.names[each] for each in self.words[question][span])


class Table:
    """N-grams of one size by their hashes; those of templates are left out."""

    def __init__(self, hashes: np.ndarray, owners: np.ndarray, starts: np.ndarray):
        order = np.lexsort((owners, hashes))
        hashes, owners, starts = hashes[order], owners[order], starts[order]
        new = np.append(True, (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1]))
        unique, count = np.unique(hashes[new], return_counts=True)
        template = unique[count > COMMON]
        common = np.isin(hashes, template)
        self.hashes, self.owners, self.starts = hashes[~common], owners[~common], starts[~common]
        self.bits = np.zeros(1 << TABLE_BITS >> 3, np.uint8)
        low = self.low(self.hashes)
        np.bitwise_or.at(self.bits, low >> 3, (1 << (low & 7)).astype(np.uint8))
        by_owner = np.argsort(owners[common], kind="stable")
        self.common_starts, self.common_owners = starts[common][by_owner], owners[common][by_owner]

    @staticmethod
    def low(hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)

    def may_hold(self, hashes: np.ndarray) -> np.ndarray:
        """Whether each hash may be in the table; of those that are not, few pass."""
        low = self.low(hashes)
        return (self.bits[low >> 3] >> (low & 7).astype(np.uint8)) & 1 != 0

    def own_words(self, question: int, length: int, size: int) -> np.ndarray:
        """Which words of the question are in no n-gram of a template: (length,)."""
        own = np.ones(length, bool)
        first, last = np.searchsorted(self.common_owners, [question, question + 1])
        for start in self.common_starts[first:last]:
            own[start : start + size] = False
        return own

    def matches(self, hashes: np.ndarray, texts: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """(text, question, where the shared n-grams begin in the question) of each pair that shares any."""
        first, last = (np.searchsorted(self.hashes, hashes, side=side) for side in ("left", "right"))
        count = last - first
        text = np.repeat(texts, count)
        place = np.repeat(first - np.append(0, np.cumsum(count)[:-1]), count) + np.arange(count.sum())
        owner, start = self.owners[place], self.starts[place]
        order = np.lexsort((owner, text))
        text, owner, start = text[order], owner[order], start[order]
        if not len(text):
            return
        cuts = np.flatnonzero((text[1:] != text[:-1]) | (owner[1:] != owner[:-1])) + 1
        for begin, starts in zip([0, *cuts], np.split(start, cuts), strict=True):
            yield int(text[begin]), int(owner[begin]), starts


def hashed(values: np.ndarray, size: int) -> np.ndarray:
    """The hash of each run of `size` values, a polynomial modulo 2^64: (words,) -> (words - size + 1,)."""
    if len(values) < size:
        return np.zeros(0, np.uint64)
    base, result = np.uint64(0x9E3779B97F4A7C15), np.zeros(len(values) - size + 1, np.uint64)
    for place in range(size):
        result *= base
        result += values[place : place + len(result)]
    return result * np.uint64(0xFF51AFD7ED558CCD)


def batches(texts: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(numbers of texts, where each begins, all words in one) for some texts at a time."""
    numbers, parts, held = [], [], 0
    for number, mine in texts:
        numbers.append(number)
        parts.append(mine)
        held += len(mine)
        if held >= BATCH:
            yield joined(numbers, parts)
            numbers, parts, held = [], [], 0
    if numbers:
        yield joined(numbers, parts)


def joined(numbers: Sequence[int], parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.array([len(each) for each in parts])
    return np.array(numbers), np.append(0, np.cumsum(lengths)[:-1]), np.concatenate(parts)


def longest(covered: np.ndarray) -> slice:
    """The longest run of what is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered.view(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    which = int(np.argmax(ends - starts))
    return slice(int(starts[which]), int(ends[which]))
