"""The report: the verdict comes first, no answer can break it, and it needs the JSON files alone."""

import base64
import csv
import io
import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from cpt.errors import UserError
from cpt.evaluation import answers
from cpt.report import build, charts, colormap, formatting
from cpt.report.render import code
from cpt.report.view import gate_row, sentence, tiles
from cpt.sizes import many
from helpers.fake_run import TASKS, make_run

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Checks that tags are closed in order, and collects the tags, attributes and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def built(folder) -> tuple[Outline, str, str]:
    html, markdown = build(folder)
    text = html.read_text(encoding="utf-8")
    return Outline(text), text, markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "bad", bad=True, count=40)


def test_a_run_that_forgets_is_not_shipped(bad):
    outline, _, markdown = built(bad)
    gates = {gate["name"]: gate for gate in json.loads((bad / "results.json").read_text())["gates"]}
    forgetting, held_out = gates["forgetting"], gates["held_out_drop"]
    assert (
        f"Do not ship Forgetting is {forgetting['value']:.3f}, over its limit of 0.120; held-out drop is "
        f"{held_out['value']:.3f}, over its limit of 0.080. The tasks were learnt to"
    ) in outline.text
    assert forgetting["reason"].replace("->", "→") in outline.text
    assert markdown.startswith("# quickstart, seed 0: Do not ship")
    for title in ("Gates", "Training", "Cost", "Answers that went from right to wrong", "Sampled answers"):
        assert title in outline.text and f"## {title}" in markdown
    for task in TASKS:
        assert task in outline.text and task in markdown


def test_a_good_run_is_shipped(tmp_path):
    outline, _, markdown = built(make_run(tmp_path / "good", count=40))
    assert "Ship Forgetting is 0.0" in outline.text
    assert "Do not ship" not in outline.text + markdown


def test_without_gates_it_does_not_judge(tmp_path):
    outline, *_ = built(make_run(tmp_path / "run", count=10, samples=0, gates={}))
    assert "No gates were set" in outline.text and "pass@" not in outline.text


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_an_unfinished_run_says_how_far_it_is(tmp_path, trained):
    outline, _, markdown = built(make_run(tmp_path / "run", trained=trained, count=10))
    assert f"Incomplete: {trained} of 4 tasks" in outline.text
    assert f"Incomplete: {trained} of 4 tasks" in markdown
    assert "sort and double" in outline.text and "Learning accuracy" not in outline.text


def test_one_task(tmp_path):
    outline, *_ = built(make_run(tmp_path / "run", tasks=("reverse",), count=10, gates={"learning_accuracy": 0.5}))
    assert "The task was learnt to" in outline.text and "Backward transfer" not in outline.text


def test_answers_cannot_break_the_page(tmp_path):
    run = make_run(tmp_path / "run", bad=True, count=20, samples=0)
    path = run / "evaluations" / "04-double.jsonl"
    evil = "</td></table><script>alert('x')</script> | `` ` pipe\nnew line & more"
    lines = [json.loads(line) | {"completion": evil, "finished": False} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outline, text, markdown = built(run)
    assert "<script" not in text and "script" not in outline.tags
    assert "alert('x')" in outline.text and "(cut off)" in outline.text
    row = next(line for line in markdown.splitlines() if "alert" in line and line.startswith("| `"))
    assert row.replace("\\|", "").count("|") == 5  # four cells
    assert "```</td></table><script>alert('x')</script> \\| `` ` pipe new line & more … (cut off)```" in row


def test_nothing_comes_from_the_network(bad):
    outline, text, _ = built(bad)
    assert not {"script", "link", "img", "iframe"} & set(outline.tags)
    assert not {"src", "xlink:href"} & {name for name, _ in outline.attributes}
    links = [value for name, value in outline.attributes if name == "href"]
    assert links and all(link.startswith(("#", "data:text/csv;base64,")) for link in links)
    assert "url(" not in text and "@import" not in text


def test_only_results_are_needed(tmp_path):
    run = make_run(tmp_path / "run", count=10)
    for path in [*run.glob("evaluations/*"), run / "metrics.jsonl", run / "manifest.json", run / "recipe.yaml"]:
        path.unlink()
    outline, _, markdown = built(run)
    for name in ("metrics.jsonl", "manifest.json", "recipe.yaml", "evaluations/00-base.jsonl"):
        assert name in outline.text.split("Left out")[1]
        assert name in markdown.replace("\\", "").split("Left out")[1]
    assert "Gradient norm" not in outline.text and "right to wrong" not in outline.text


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no results\.json"):
        build(tmp_path)


def test_broken_files_are_named(tmp_path):
    run = make_run(tmp_path / "run", count=5, samples=0)
    path = run / "metrics.jsonl"
    whole = path.read_text()
    for text, what in (
        ("{broken\n" + whole, "line 1 (not JSON"),
        (whole[:-3], f"1 of {whole.count(chr(10))} lines are missing"),
        ("", f"{whole.count(chr(10))} of {whole.count(chr(10))} lines are missing"),
    ):
        path.write_text(text)
        told = []
        build(run, told.append)
        assert len(told) == 1 and f"metrics.jsonl: damaged: {what}" in told[0]
    part = make_run(tmp_path / "part", count=5, samples=0, trained=2) / "metrics.jsonl"
    part.write_text(part.read_text() + '{"task": "rev')  # its process was killed while writing
    told = []
    build(part.parent, told.append)
    assert not told
    path.write_text(whole)
    (run / "results.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="format 2 is not 1"):
        build(run)


def test_it_is_the_same_each_time_and_needs_no_torch(bad):
    build(bad)
    before = (bad / "report.html").read_bytes(), (bad / "report.md").read_bytes()
    program = (
        "import sys, pathlib; from cpt.report import build; build(pathlib.Path(sys.argv[1])); assert not {'torch', "
        "'transformers', 'matplotlib', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(bad)], check=True)
    assert before == ((bad / "report.html").read_bytes(), (bad / "report.md").read_bytes())


def test_flips_are_counted_from_the_best_point(bad):
    outline, *_ = built(bad)
    assert "went wrong" in outline.text and "answer at 01-reverse answer at 04-double" in outline.text
    assert outline.attributes.count(("class", "right")) <= 10 * 6


def test_chart_geometry_by_hand():
    frame = charts.Frame(100, 60, x=(0, 4), y=(0, 1), left=10, right=10, top=5, bottom=15)
    assert (frame.px(2), frame.py(0), frame.py(1)) == (50, 45, 5)
    assert frame.points((0, 4), (1, 0.5)) == "10.0,5.0 90.0,25.0"
    assert charts.nice_ticks(0.02, 0.97) == [0, 0.5, 1]
    assert charts.nice_ticks(3, 3)[0] < 3 < charts.nice_ticks(3, 3)[-1]
    xs, ys = charts.binned(range(1000), range(1000))
    assert len(xs) <= charts.MOST_POINTS and ys[0] == 2


def test_every_heat_cell_can_be_read():
    for i in range(101):
        for stops in (colormap.LIGHT, colormap.DARK):
            colour = colormap.mix(stops, i / 100)
            ink = colormap.ink(colour)
            assert colormap.contrast(colour, tuple(int(ink[j : j + 2], 16) for j in (1, 3, 5))) >= 4.5  # WCAG AA


def test_numbers_as_text():
    assert [formatting.score(x) for x in (None, -0.001, -0.126, 0.5)] == ["–", "−0.001", "−0.126", "0.500"]
    assert formatting.score(-0.0001) == "0.000" and formatting.score(0.01234, 4) == "0.0123"
    assert [formatting.signed(x) for x in (0.051, -0.3, 0.0)] == ["+0.051", "−0.300", "0.000"]
    assert [many(1, "thread"), many(2, "process")] == ["1 thread", "2 processes"]
    assert [formatting.compact(x) for x in (0, 0.0123, -0.00001, 12345, 2e7)] == [
        "0",
        "0.0123",
        "−1.0e−5",
        "12.3k",
        "2.0e7",
    ]
    assert [formatting.duration(x) for x in (5.25, 125, 7260)] == ["5.2 s", "2 min 05 s", "2 h 01 min"]
    assert formatting.size(3 * 2**29) == "1.61 GB" and formatting.listed(["a", "b", "c"]) == "a, b and c"
    assert code("a`b|c") == "``a`b\\|c``" and code("") == "`  `"


def test_a_gate_in_words():
    gate = {
        "name": "forgetting",
        "direction": "max",
        "value": 0.1,
        "limit": 0.12,
        "interval": [0.05, 0.15],
        "passed": False,
    }
    assert sentence(gate | {"rule": "point", "passed": True}) == "forgetting is 0.100, within its limit of 0.120"
    assert sentence(gate | {"rule": "interval"}) == "forgetting is 0.100 [0.050 to 0.150], on both sides of 0.120"


def test_a_value_close_to_its_limit_is_told_apart():
    gate = {"name": "forgetting", "direction": "max", "rule": "point", "passed": False, "interval": [0, 0.05]}
    gate |= {"value": 0.0101, "limit": 0.01, "reason": "a lost 0.010 (1.000 -> 0.990)"}
    assert sentence(gate) == "forgetting is 0.0101, over its limit of 0.0100"
    assert (gate_row(gate)["value"], gate_row(gate)["limit"]) == ("0.0101", "≤ 0.0100")
    close = gate | {"rule": "interval", "value": 0.002, "interval": [0.0, 0.01002]}
    assert sentence(close) == "forgetting is 0.00200 [0.00000 to 0.01002], on both sides of 0.01000"


def test_each_suite_is_judged_by_itself_and_in_order(tmp_path):
    """The gate fails because of `safety`; `general` kept its own."""
    run = make_run(tmp_path / "run", count=20, gates={"held_out_drop": 0.08})
    results = json.loads((run / "results.json").read_text())
    results["held_out"]["safety"] = [0.9, 0.9, 0.9, 0.9, 0.5]
    results["held_out_tasks"]["safety"] = {"s": [0.9, 0.9, 0.9, 0.9, 0.5]}
    results["intervals"]["held_out_drop"]["safety"] = [0.3, 0.5]
    results["intervals"]["held_out"]["safety"] = [[0.4, 0.6]] * 5
    results["gates"][0] |= {"value": 0.4, "interval": [0.3, 0.5], "outcome": "failed"}
    shown = [(tile["title"], tile["outcome"]) for tile in tiles(results)]
    assert shown[:4] == [
        ("Learning accuracy", None),
        ("Forgetting", None),
        ("Held-out drop: general", "passed"),
        ("Held-out drop: safety", "failed"),
    ]


def change_answers(run, **changes):
    path = run / "evaluations" / "04-double.jsonl"
    lines = [json.loads(line) | changes for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_an_empty_answer_says_so(tmp_path):
    run = make_run(tmp_path / "run", bad=True, count=10, samples=0)
    change_answers(run, completion=" \n", answer=None)
    outline, _, markdown = built(run)
    assert "(nothing)" in outline.text and "`–` |" in markdown and "| `(nothing)` |" in markdown
    change_answers(run, completion="", finished=False)
    assert "(nothing) … (cut off)" in built(run)[0].text


def test_what_verifiers_did_is_in_words_and_added_up(tmp_path):
    run = make_run(tmp_path / "run", count=10, samples=0)
    results = json.loads((run / "results.json").read_text())
    points = [point.removeprefix("points/") for point in results["points"]]
    results["verifier_errors"] = {point: {"sort": {"none": 2}} for point in points}
    results["verifier_errors"][points[1]]["caesar"] = {"timeout": 3, "odd": 1}
    (run / "results.json").write_text(json.dumps(results))
    outline, _, markdown = built(run)
    assert "sort returned None instead of a number 10 every point" in outline.text
    assert "| caesar | took too long and was stopped | 3 | 01-reverse |" in markdown
    assert "| caesar | odd | 1 | 01-reverse |" in markdown


def test_curves_of_the_engine_and_of_what_was_not_scored(tmp_path):
    run = make_run(tmp_path / "run", count=5, samples=0)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    extra = {"rollouts/logprob_difference": 2e-3, "sampling/importance_sampling_ratio/mean": 1.01, "unscorable": 0.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | extra) + "\n" for line in lines))
    text = built(run)[0].text
    assert "Logprob gap to the engine 0.002 → 0.002" in text and "Importance ratio to the engine" in text
    assert "Rollouts not scored" not in text
    lines[3]["unscorable"] = 0.25
    (run / "metrics.jsonl").write_text("".join(json.dumps(extra | line) + "\n" for line in lines))
    assert "Rollouts not scored" in built(run)[0].text


def test_what_a_filter_dropped_is_named(tmp_path):
    run = make_run(tmp_path / "run", count=5, samples=0)
    results = json.loads((run / "results.json").read_text())
    dropped = [f"reverse/train/{number}" for number in range(30)]
    results["stages"][0]["filter"] = {
        "drop": "all-wrong",
        "prompts": 120,
        "kept": 90,
        "dropped": dropped,
        "opening": 16,
    }
    (run / "results.json").write_text(json.dumps(results))
    outline, page, markdown = built(run)
    assert "90 of 120 prompts kept (75%); dropped (all-wrong): 30 prompts" in outline.text
    assert ", ".join(dropped) in page and ", ".join(dropped) in markdown


def with_merges(run, **more) -> None:
    """After caesar a searched merge, which took .25."""
    results = json.loads((run / "results.json").read_text())
    curve = [
        {"value": value, "accuracy": {"reverse": old, "caesar": new}, "mean": (old + new) / 2, "breaks": breaks}
        | {"taken": value == 0.25}
        for value, old, new, breaks in ((None, 0.5, 0.98, ["forgetting"]), (0.25, 0.9, 0.96, []), (1.0, 0.97, 0.1, []))
    ]
    results["stages"][1]["merges"] = [
        {"strategy": "0-merge", "method": "wise", "feed_back": True, "option": "weight", "points": ["01-reverse"]}
        | {
            "value": 0.25,
            "merged": True,
            "seconds": 30.0,
            "rollout_tokens": 1234,
            "curve": curve,
            "told": "wise | told",
        }
        | more
    ]
    (run / "results.json").write_text(json.dumps(results))


def test_the_trade_off_of_a_merge(tmp_path):
    run = make_run(tmp_path / "run", count=10)
    assert "Merges" not in built(run)[1]
    with_merges(run)
    outline, page, markdown = built(run)
    assert "| caesar | weight 0.25 | 0.900 | 0.960 | 0.930 |  | ✓ taken |" in markdown
    assert "| caesar | unmerged | 0.500 | 0.980 | 0.740 | forgetting |  |" in markdown
    assert "caesar 0-merge: wise \\| told" in markdown and "caesar 0-merge: wise | told" in outline.text
    assert "after caesar, by weight 0, 0.25, 1: new task 0.980, 0.960, 0.100; old tasks 0.500, 0.900, 0.970" in page
    assert "| caesar 0-merge | – | 30.0 s | – | 1,234 | – |" in markdown
    with_merges(run, curve=[], told="half")
    assert "caesar 0-merge: half" in built(run)[0].text and "validation rows" not in built(run)[1]


def test_a_merge_searched_over_scales(tmp_path):
    """The unmerged model has no scale; a single value has its place in the middle."""
    run = make_run(tmp_path / "run", count=10)
    with_merges(run, option="scale")
    assert "by scale 0.25, 1: new task 0.960, 0.100" in built(run)[1] and "scale 0.25: 0.930" in built(run)[0].text
    svg = charts.trade_off_chart("x", [0.5], new=[1.0], old=None, taken=0.5, columns=2)
    assert 'cx="279.0"' in svg and 'class="line"' not in svg
    frame = charts.Frame(100, 60, x=(0, 1), y=(0, 1), left=10, right=10)
    assert len(charts.ticks_apart(frame, [0, 0.01, 1], 5)) == 2


def test_every_table_of_the_markdown_is_one(tmp_path):
    """As a reader of Markdown sees it: as many tables as were written, no row cut, nothing taken for HTML."""
    run = make_run(tmp_path / "run", bad=True, count=20)
    change_answers(run, completion="a|b\n\n| c | `` d\r\n|---|\n<b>&amp;</b> ~~e~~ $f$ \\|", prompt="| x |\n\n# y")
    markdown = built(run)[2]
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    written = [line for line in markdown.splitlines() if line.startswith("|")]
    rules = [line for line in written if not line.strip("|-:")]
    assert sum(token.type == "table_open" for token in tokens) == len(rules) > 8
    assert sum(token.type == "tr_open" for token in tokens) == len(written) - len(rules)
    assert [token.content.split(">")[0] for token in tokens if token.type == "html_block"] == ["<details", "</details"]
    inline = [child.type for token in tokens for child in token.children or ()]
    assert not {"html_inline", "s_open", "heading_open"} & set(inline)
    assert not any(token.type == "inline" and token.content.startswith("|") for token in tokens)


def test_charts_of_two_tasks_fill_the_row(tmp_path):
    assert [charts.columns_of(n) for n in (1, 2, 3, 4, 5, 6, 7, 12)] == [2, 2, 3, 4, 3, 3, 4, 4]
    _, text, _ = built(make_run(tmp_path / "run", tasks=("reverse", "caesar"), count=10))
    assert '<div class="charts two" style="--columns:2">' in text and 'viewBox="0 0 540 210"' in text


def test_a_long_stream_numbers_its_ticks():
    points = ["00-base", *(f"{i:02d}-a-long-task-name" for i in range(1, 21))]
    svg = charts.stream_chart("x", points, [0.5] * 21, [[0.4, 0.6]] * 21, rows=21, trained=3)
    assert ">20<" in svg and ">a-long" not in svg
    assert charts.short("03-sort", 60) == "sort" and charts.short("03-a-long-name", 60) == "a-long-na…"


@pytest.mark.parametrize(
    "text, said",
    [
        ("[]", "must be a JSON object, not '[]'"),
        ("null", "must be a JSON object, not 'null'"),
        ("{", "not JSON"),
        ('{"format": 1}', "results.json: is damaged: complete: Field required"),
        ('{"format": 2}', "format 2 is not 1"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_results_that_are_none(text, said, tmp_path):
    (tmp_path / "results.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        build(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_report_that_cannot_be_written(tmp_path):
    run = make_run(tmp_path / "run", bad=False, count=10)
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: is a folder, but the run needs a file there: move it away"):
        build(run)


def choices(tmp_path, before="A", after="B"):
    """A run of one task of forty questions, half of which expect A, half B; all are answered `before`, then `after`."""
    run = make_run(tmp_path / "run", tasks=("reverse",), count=40, samples=0, gates={"average_accuracy": 0.2})
    for point, given in (("00-base", before), ("01-reverse", after)):
        path = run / "evaluations" / f"{point}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for number, line in enumerate(lines):
            if line["suite"] is None:
                wanted = "AB"[number % 2]
                line |= {"answer": wanted, "completion": given, "score": float(wanted == given)}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = json.loads((run / "results.json").read_text())
    results["accuracy"] = [[0.5], [0.5]]
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_all_answers_changed_and_the_score_did_not(tmp_path):
    """The base answers A to all forty, the model B: both .500, which the matrix calls no change."""
    outline, _, markdown = built(choices(tmp_path))
    assert "One answer for nearly all: reverse at 00-base: 40 of 40 answers are 'A'" in outline.text
    assert "One answer for nearly all: reverse at 01-reverse: 40 of 40 answers are 'B'" in outline.text
    assert "chance 0.500; always the most frequent answer: 0.500" in outline.text
    row = next(line for line in markdown.splitlines() if line.startswith("| reverse | 01-reverse |"))
    assert "A: 0, B: 40" in row and row.endswith("| 40 of 40 |")
    assert "Confusion of reverse" in outline.text


def test_a_balanced_task_gets_no_warning(tmp_path):
    run = choices(tmp_path)
    lines = [json.loads(line) for line in (run / "evaluations" / "01-reverse.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["suite"] is None]
    for number, line in enumerate(lines):
        line |= {"completion": f"It is ({'AB'[number % 2]}).", "score": 1.0}
    assert answers.warnings(lines) == []
    assert answers.confusion(lines, ["A", "B"]) == {
        "A": {"A": 20, "B": 0, answers.OTHER: 0},
        "B": {"A": 0, "B": 20, answers.OTHER: 0},
    }
    for line in lines:
        line |= {"completion": "A or B", "score": 0.0}
    assert answers.distribution(lines, ["A", "B"]) == {"A": 0, "B": 0, answers.OTHER: 40}


def test_tasks_whose_answer_is_nearly_always_the_same_are_no_surprise():
    line = {"suite": None, "task": "a", "mode": "greedy", "completion": "yes", "score": 1.0, "finished": True}
    lines = [line | {"row": str(i), "answer": "no" if i < 3 else "yes"} for i in range(40)]
    assert answers.warnings(lines) == []
    assert answers.warnings([each | {"answer": str(i)} for i, each in enumerate(lines)]) == [
        "a: 40 of 40 answers are 'yes', whatever is asked"
    ]


def test_every_question_is_there(bad):
    outline, text, _ = built(bad)
    assert text.count("<summary><b>") >= 5
    lines = [json.loads(line) for line in (bad / "evaluations" / "00-base.jsonl").read_text().splitlines()]
    asked = {line["prompt"] for line in lines if line["mode"] == "greedy"}
    assert all(prompt in text for prompt in asked)
    anchors = {value for name, value in outline.attributes if name == "id"}
    assert {link[1:] for name, link in outline.attributes if name == "href" and link.startswith("#")} <= anchors


def test_ten_tasks_stay_one_small_file(tmp_path):
    """Ten tasks of 200 questions with long texts, eleven points: under 3 MB."""
    run = make_run(tmp_path / "run", tasks=TASKS, count=200, samples=0)
    for path in (run / "evaluations").glob("*.jsonl"):
        lines = [json.loads(line) | {"prompt": "why? " * 400, "completion": "because " * 300} for line in path.open()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(built(run)[1]) < 3_000_000


def test_the_matrix_can_be_downloaded(bad):
    outline, *_ = built(bad)
    (link,) = [value for name, value in outline.attributes if name == "href" and value.startswith("data:")]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link.partition(",")[2]).decode())))
    results = json.loads((bad / "results.json").read_text())
    assert len(rows) == 5 * 5 and float(rows[0]["score"]) == results["accuracy"][0][0]
    assert {row["kind"] for row in rows} == {"task", "held out"}
