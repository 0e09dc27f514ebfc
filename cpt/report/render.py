"""From the view to text: Jinja templates beside this file; HTML is escaped by Jinja, Markdown by `code` and `plain`."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cpt.report.formatting import duration, score, size
from cpt.sizes import many

HERE = Path(__file__).parent


def html(view: dict) -> str:
    return template("report.html.j2", autoescape=True).render(
        view, style=Markup((HERE / "style.css").read_text("utf-8"))
    )


def markdown(view: dict) -> str:
    text = template("report.md.j2", autoescape=False).render(view)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def model_card(view: dict) -> str:
    text = template("card.md.j2", autoescape=False).render(view)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def template(name: str, autoescape: bool, folder: Path = HERE):
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": code,
        "fenced": fenced,
        "plain": plain,
        "size": size,
        "duration": duration,
        "many": many,
        "score": score,
    }
    return environment.get_template(name)


def code(text: object) -> str:
    """Any text as an inline code span that is safe in a cell of a GitHub table."""
    shown = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def fenced(text: str) -> str:
    """Text as a code block, whatever backticks are in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"


def plain(text: object) -> str:
    """Text of ours with names of the user's in it, safe in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", " ".join(str(text).split()))
