"""The sources of a recipe: what may stand under `data`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cpt.recipe.base import Strict
from cpt.recipe.row_templates import compiled, condition

WRITTEN = {"prompt": "template", "answer": "answer", "demonstration": "demonstration"}  # row field: key of its template


class Procedural(Strict):
    source: Literal["procedural"]
    name: str = Field(
        description="the skill: reverse, caesar, sort, rot, dedup, copy, last, max, succ, swap, evens, add"
    )
    length: int = Field(5, ge=2, le=60, description="letters in a string: the difficulty")
    demonstration: Literal["terse", "restate", "sentence", "spaced"] = "restate"
    train: int = Field(4000, ge=0)
    validation: int = Field(0, ge=0)
    eval: int = Field(200, ge=0)


class ReasoningGym(Strict):
    source: Literal["reasoning_gym"]
    name: str = Field(description="the data set's name in reasoning-gym: leg_counting, chain_sum, ...")
    config: dict[str, Any] = Field({}, description="fields of that data set's config")
    train: int = Field(1000, ge=0)
    validation: int = Field(0, ge=0)
    eval: int = Field(100, ge=0)
    conversational: bool = True


class Mapped(Strict):
    """How the columns of a table become the fields of rows."""

    columns: dict[str, str] = Field({}, description="row field -> column of the data")
    template: str | None = Field(None, description="Jinja over the columns: the prompt")
    answer: str | None = Field(None, description="Jinja over the columns: the answer")
    demonstration: str | None = Field(None, description="Jinja over the columns: the demonstration")
    where: str | None = Field(
        None, description="a Jinja expression over the columns: rows of which it is false are dropped"
    )

    @field_validator("template", "answer", "demonstration")
    @classmethod
    def is_template(cls, value: str | None) -> str | None:
        if value is not None:
            compiled(value)
        return value

    @field_validator("where")
    @classmethod
    def is_condition(cls, value: str | None) -> str | None:
        if value is not None:
            condition(value)
        return value

    @model_validator(mode="after")
    def one_way_for_each_field(self):
        for field, key in WRITTEN.items():
            if getattr(self, key) is not None and field in self.columns:
                raise ValueError(f"columns.{field} and {key} both say what {field} is: keep one")
        return self

    def mapping(self) -> str:
        """All of it, as text."""
        return self.model_dump_json(include=set(Mapped.model_fields))


class File(Mapped):
    """Local files: JSON lines, JSON, CSV, TSV, Parquet (each may be compressed by gzip, bzip2 or xz), or folders of them."""

    source: Literal["file", "jsonl"] = Field(description="`jsonl`: a file of JSON lines, whatever its ending")
    train: Path | None = None
    validation: Path | None = None
    eval: Path | Annotated[int, Field(ge=0)] = Field(description="a file, or a number of rows to hold out of `train`")
    format: Literal["jsonl", "json", "csv", "tsv", "parquet"] | None = Field(
        None, description="of all files; what their endings say"
    )
    field: str | None = Field(None, description="the key of a JSON document under which its rows are")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="between the cells of a CSV; a comma")

    @field_validator("train", "validation", "eval", mode="before")
    @classmethod
    def is_named(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("is empty: name a file or a folder")
        return value

    @property
    def file_format(self) -> str | None:
        """The format of all files; None where their endings say it."""
        return self.format or ("jsonl" if self.source == "jsonl" else None)

    @model_validator(mode="after")
    def options_fit(self):
        if self.source == "jsonl" and self.format not in (None, "jsonl"):
            raise ValueError(f"`source: jsonl` is a file of JSON lines: write `source: file` for {self.format}")
        if self.field is not None and self.file_format not in (None, "json"):
            raise ValueError(f"`field` is a key of a JSON document, and the format is {self.file_format}: take one out")
        if self.delimiter is not None and self.file_format not in (None, "csv", "tsv"):
            raise ValueError(f"`delimiter` is of CSV files, and the format is {self.file_format}: take one out")
        return self


class Hub(Mapped):
    """A data set of the hub, loaded by `datasets`."""

    source: Literal["hub"]
    path: str = Field(min_length=1, description="the data set's id on the hub")
    name: str | None = Field(None, description="its configuration")
    revision: str | None = None
    train: str | None = Field("train", description="a split, or a slice of one: train[:1000]")
    validation: str | None = None
    eval: str | Annotated[int, Field(ge=0)] = Field(
        "test", description="a split, or a number of rows to hold out of `train`"
    )


Source = Annotated[Procedural | ReasoningGym | File | Hub, Field(discriminator="source")]
