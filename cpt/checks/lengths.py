"""Rows that are too long: how many, and what becomes of them (`overlong` of the task)."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cpt.checks.findings import Findings

LONGEST = "max_completion_length"
SPLITTING = ("wrapped", "bfd_split", "bfd-requeue")  # packing strategies of TRL's


class Limit(NamedTuple):
    """The most tokens that something of a row may have. `words` say whose limit it is, `remedy` what to do; `cuts`: what is
    beyond it can be cut off, at the end, or at the beginning (`keeps_end`)."""

    tokens: int | None
    reason: str
    remedy: str
    cuts: bool = False
    keeps_end: bool = False


NONE = Limit(None, "", "")


def tightest(limits: list[Limit]) -> Limit:
    """The limit with the fewest tokens."""
    known = [limit for limit in limits if limit.tokens is not None]
    return min(known, key=lambda limit: limit.tokens, default=NONE)


def prompt_limit(context: int | None, follows: int) -> Limit:
    """What the model's context leaves for a prompt that `follows` tokens may follow."""
    reason = f"with an answer of up to {follows} that is more than the model's context of {context}"
    remedy = f"shorten the row, lower {LONGEST}, or set `overlong: drop` in the task"
    return Limit(None if context is None else context - follows, reason, remedy)


def measured_limit(context: int | None) -> Limit:
    """What may be measured of a row by `metric: likelihood`."""
    remedy = "shorten the row, or set `overlong: drop` in the task"
    return Limit(context, f"the model's context of {context} holds no more", remedy)


def trained_limits(context: int | None, where: str, stage: Any) -> list[Limit]:
    """What the stage at `where` may train on of a row: the model's context, and where TRL cuts."""
    remedy = "shorten the row, or set `overlong: drop` or `overlong: truncate` in the task"
    keeps_end = stage.value("truncation_mode") == "keep_end"
    limits = [Limit(context, f"the model's context of {context} holds no more", remedy, True, keeps_end)]
    cut = stage.value("max_length")
    if cut is not None and splits_rows(stage) and (context is None or cut <= context):
        return []
    if cut is not None:
        reason = f"args.max_length of {where} is {cut}"
        if "max_length" not in stage.args:
            reason = f"args.max_length of {where} is not set, and the default of {stage.trl_config} is {cut}"
        limits.append(Limit(cut, reason, f"raise args.max_length (null: no limit), {remedy}", True, keeps_end))
    return limits


def splits_rows(stage: Any) -> bool:
    """Whether TRL packs rows in such a way that it trains on all of a long one, in pieces."""
    return bool(stage.args.get("packing")) and stage.args.get("packing_strategy") in SPLITTING


def demonstration_limit(where: str, stage: Any) -> Limit:
    """What the hybrid stage at `where` takes of a demonstration."""
    tokens = stage.value(LONGEST)
    keep = f"`long_demonstrations: keep` in {where} (all of it is then trained on)"
    remedy = f"raise it, or set {keep}, or `overlong: drop` in the task"
    return Limit(tokens, f"args.{LONGEST} of {where} is {tokens}", remedy)


@dataclass
class Overlong:
    """The rows of one split of a task that are too long. `key` is the task's (stream.tickets), `rows` how many it has."""

    key: str
    split: str
    rows: int
    action: str  # refuse, drop, truncate
    long_rows: dict[tuple[str, Limit], list[tuple[int, str, int]]] = field(default_factory=dict)
    emptied: set[int] = field(default_factory=set)

    def look(self, place: int, row: str, what: str, length: int, limit: Limit) -> None:
        """Take note of the row at `place` (called `row`) if `length` tokens are more than the limit; `what` has so many."""
        if limit.tokens is not None and length > limit.tokens:
            self.long_rows.setdefault((what, limit), []).append((place, row, length))

    @property
    def left_out(self) -> set[int]:
        """The places of the rows that are not used."""
        if self.action == "drop":
            return {place for each in self.long_rows.values() for place, *_ in each}
        return self.emptied if self.action == "truncate" else set()

    def report(self, findings: Findings) -> dict[str, int]:
        """Note what is refused, or what becomes of the rows: {left_out, cut}, how many rows, without zeros."""
        for (what, limit), rows in self.long_rows.items():
            if self.action == "refuse" or (self.action == "truncate" and not limit.cuts):
                findings.add(f"{self.key}.data.{self.split}", self._refusal(what, limit, rows))
        cut = {place for (_, limit), each in self.long_rows.items() for place, *_ in each if limit.cuts} - self.left_out
        counts = {"left_out": len(self.left_out), "cut": len(cut) if self.action == "truncate" else 0}
        counts = {name: count for name, count in counts.items() if count}
        if counts.get("left_out") == self.rows:
            message = f"all {self.rows} rows are too long, so `overlong: {self.action}` leaves none: give shorter rows"
            findings.add(f"{self.key}.data.{self.split}", message)
        elif counts:
            findings.warn(f"{self.key}.data.{self.split}", self._sentence(counts))
        return counts

    def _refusal(self, what: str, limit: Limit, rows: list[tuple[int, str, int]]) -> str:
        _, row, length = rows[0]
        others = f" ({len(rows)} of {self.rows} rows are too long)" if len(rows) > 1 else ""
        kept = "`overlong: truncate` cuts no prompts: " if self.action == "truncate" else ""
        return f"{row} has {what.format(length)}, and {limit.reason}{others}: {kept}{limit.remedy}"

    def _sentence(self, counts: dict[str, int]) -> str:
        (what, limit), rows = next(iter(self.long_rows.items()))
        example = f"{rows[0][1]} has {what.format(rows[0][2])}, and {limit.reason}"
        outcomes = {
            "left_out": "are left out" if self.action == "drop" else "lose their whole answer, and are left out",
            "cut": "are cut, so that their ends are not trained on",
        }
        parts = [f"{count} of {self.rows} rows {outcomes[name]}" for name, count in counts.items()]
        return f"{'; '.join(parts)} (overlong: {self.action}): {example}"
