"""What belongs to which file: relative paths, and null over a base."""

from cpt.recipe import dump, load, load_suite
from helpers.recipe_text import BASE, changed
from helpers.recipes import write_recipe


def test_a_path_of_the_command_line_belongs_to_where_it_was_given(tmp_path, monkeypatch):
    """Whole maps and lists too; and what is stored finds them from any folder."""
    for place in ("here/m", "recipes", "run"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "here" / "asked.yaml").write_text("name: asked\ntasks: []\n")
    (tmp_path / "recipes" / "recipe.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path / "here")
    data = "stream.0.data={source: jsonl, train: rows.jsonl, eval: 2}"
    recipe = load("../recipes/recipe.yaml", [data, "model.path=m", "evaluation.suites=[asked.yaml]"])
    assert recipe.stream[0].data.train == tmp_path / "here" / "rows.jsonl"
    assert recipe.model.path == str(tmp_path / "here" / "m")
    assert recipe.evaluation.suites == (str(tmp_path / "here" / "asked.yaml"),)
    monkeypatch.chdir(tmp_path)
    assert load(write_recipe(tmp_path / "run" / "recipe.yaml", dump(recipe))) == recipe


def test_null_over_a_base_that_lacks_the_key(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("extends: quickstart\nname: same\nstrategies: null\nrollouts: null\n")
    assert load(file).strategies == ()


def test_a_split_of_the_hub_is_no_path(tmp_path):
    """That the source is the hub, the base alone may say."""
    file = tmp_path / "recipe.yaml"
    file.write_text('extends: qwen3-0.6b-stream\nname: less\nstream: [{task: gsm8k, data: {train: "train[:10]"}}]\n')
    assert load(file).stream[1].data.train == "train[:10]"


def test_a_teacher_belongs_to_its_file(tmp_path):
    (tmp_path / "teacher").mkdir()
    file = tmp_path / "recipe.yaml"
    for text in (
        changed("kind: rlvr", "kind: distill\n        teacher: ./teacher"),
        changed("kind: rlvr", "kind: distill") + "defaults: {distill: {teacher: teacher}}\n",
    ):
        file.write_text(text)
        assert load(file).stream[0].stages[0].teacher == str(tmp_path / "teacher")


def test_null_says_none_where_nothing_stands(tmp_path):
    """In `args`, where null is a value of TRL's (a row that is cut nowhere)."""
    file = tmp_path / "recipe.yaml"
    file.write_text(changed("kind: rlvr", "kind: sft"))
    assert load(file, ["stream.0.stages.0.args.max_length=null"]).stream[0].stages[0].args["max_length"] is None
    assert load(file, ["strategies=null"]).strategies == ()


def test_the_folder_of_a_function_belongs_to_its_file(tmp_path, monkeypatch):
    """Also within a sum, and of a suite."""
    (tmp_path / "here").mkdir()
    function = "{kind: function, path: 'mine:judge', folder: judges}"
    file = tmp_path / "recipe.yaml"
    file.write_text(changed("reward: exact", f"reward: [exact, {function}]\n    metric: {function}"))
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"name: held\ntasks: [{{task: a, data: {{source: procedural, name: copy}}, reward: exact, metric: {function}}}]\n"
    )
    monkeypatch.chdir(tmp_path / "here")
    task = load("../recipe.yaml").stream[0]
    assert task.metric.folder == task.reward.parts[1].reward.folder == tmp_path / "judges"
    assert load_suite("../suite.yaml").tasks[0].metric.folder == tmp_path / "judges"
    given = load("../recipe.yaml", [f"stream.0.metric={function}"])
    assert given.stream[0].metric.folder == tmp_path / "here" / "judges"
