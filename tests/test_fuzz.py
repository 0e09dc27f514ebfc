"""Whatever a recipe, an override or a file of rows holds: `cpt check` answers within seconds, in lines, without a traceback.

Two thousand examples, the same in every run. By hand, other ones: CPT_FUZZ=10 pytest tests/test_fuzz.py
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzz import (
    HELD,
    SUITE,
    as_lines,
    as_yaml,
    bases,
    changed,
    changed_rows,
    examples,
    looked_at,
    overrides,
    right_rows,
    spoiled,
    spoiled_bytes,
)

BASES = bases()
TEXTS = [json.dumps(each, indent=1) for each in BASES]
TEXTS += [
    (Path(__file__).parent.parent / "recipes" / f"{name}.yaml").read_text() for name in ("quickstart", "rejection")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("fuzz")
    (made / "train.jsonl").write_bytes(as_lines(right_rows("sft")))
    (made / "held.jsonl").write_bytes(as_lines(HELD))
    import cpt.stages.configs  # noqa: F401 (seconds, once)

    return made


def with_suite() -> dict:
    return BASES[0] | {"evaluation": {"suites": ["held.yaml"], "max_completion_length": 12}}


def test_the_recipes_themselves_are_right(folder):
    for number, content in enumerate(BASES):
        (folder / "recipe.yaml").write_text(as_yaml(content))
        assert looked_at(folder, "recipe.yaml") == 0, (number, content)
    (folder / "held.yaml").write_text(as_yaml(SUITE))
    (folder / "recipe.yaml").write_text(as_yaml(with_suite()))
    assert looked_at(folder, "recipe.yaml") == 0


@examples(800)
@given(content=st.sampled_from(BASES).flatmap(changed))
def test_recipes_of_wrong_values(folder, content):
    (folder / "recipe.yaml").write_text(as_yaml(content), encoding="utf-8", errors="surrogatepass")
    looked_at(folder, "recipe.yaml")


@examples(400)
@given(text=st.sampled_from(TEXTS).flatmap(spoiled))
def test_recipes_of_broken_yaml(folder, text):
    (folder / "recipe.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    looked_at(folder, "recipe.yaml")


@examples(300)
@given(words=st.sampled_from(BASES[:4]).flatmap(overrides))
def test_overrides(folder, words):
    (folder / "recipe.yaml").write_text(as_yaml(BASES[0]))
    looked_at(folder, "recipe.yaml", *words)


@examples(100)
@given(content=changed(SUITE))
def test_suites(folder, content):
    (folder / "held.yaml").write_text(as_yaml(content), encoding="utf-8", errors="surrogatepass")
    (folder / "recipe.yaml").write_text(as_yaml(with_suite()))
    looked_at(folder, "recipe.yaml")


@pytest.mark.parametrize("kind", ["sft", "dpo", "messages", "rlvr"])
@examples(100)
@given(data=st.data())
def test_rows(folder, kind, data):
    rows = right_rows(kind)
    content = data.draw(changed_rows(rows).map(as_lines) | spoiled_bytes(as_lines(rows)))
    (folder / f"{kind}.jsonl").write_bytes(content)
    recipe = json.loads(json.dumps(BASES[-2]))
    recipe["stream"][0]["data"]["train"] = f"{kind}.jsonl"
    recipe["stream"][0]["stages"][0]["kind"] = {"messages": "sft"}.get(kind, kind)
    (folder / "rows.yaml").write_text(as_yaml(recipe))
    looked_at(folder, "rows.yaml")
