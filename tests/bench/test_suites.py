"""Every format that is read, told apart by what stands in it; and the answer format, field by field."""

import json
import sys
from types import SimpleNamespace

import pytest

from anydraft.bench.suites import BUNDLED_TASKS, Item, bundled, load, pick, spec_bench_answer
from anydraft.core.errors import BadOption, BadPrompt


def written(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return str(path)


def test_the_bundled_suite_has_its_four_tasks():
    items = bundled()
    counts = {task: sum(item.task == task for item in items) for task in BUNDLED_TASKS}
    assert min(counts.values()) >= 4, counts
    assert len({item.id for item in items}) == len(items)
    assert all(item.prompt.rstrip().endswith('"""') for item in items if item.task == "docstring")


def test_editing_prompts_begin_a_second_copy():
    item = next(item for item in bundled() if item.task == "editing")
    first, second = item.prompt.split("# version 2")
    assert second.split("\n", 1)[1].strip()[:30] in first


def test_spec_bench(tmp_path):
    rows = [{"question_id": 81, "category": "writing", "turns": ["one", "two"]}, {"question_id": 82, "category": "math", "turns": ["three"]}]
    assert load(written(tmp_path / "question.jsonl", *rows)) == [Item("81", "writing", ("one", "two")), Item("82", "math", ("three",))]


def test_human_eval_and_summaries(tmp_path):
    (code,) = load(written(tmp_path / "humaneval.jsonl", {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f"}))
    assert (code.id, code.task, code.prompt) == ("HumanEval/0", "humaneval", "def f():\n")
    (news,) = load(written(tmp_path / "news.jsonl", {"article": "It rained.", "highlights": "Rain."}))
    assert news.prompt == "It rained.\n\nSummary:"


def test_a_column_of_ones_own(tmp_path):
    assert load(written(tmp_path / "own.jsonl", {"q": "hello", "prompt": "other"}), column="q")[0].prompt == "hello"


def test_plain_text_is_cut_at_double_empty_lines(tmp_path):
    (tmp_path / "notes.txt").write_text("one\n\nstill one\n\n\ntwo\n")
    assert [item.prompt for item in load(str(tmp_path / "notes.txt"))] == ["one\n\nstill one", "two"]


@pytest.mark.parametrize(
    "line, complaint", [('{"a": 1}', "holds no prompt"), ("{", "not JSON"), ("[1]", "not an object"), ('{"turns": []}', "holds no prompt")]
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, complaint):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(BadPrompt, match=complaint) as error:
        load(str(tmp_path / "bad.jsonl"))
    assert "line 2" in str(error.value)


def test_a_missing_suite_and_a_missing_library(monkeypatch):
    with pytest.raises(BadOption, match="no suite"):
        load("nowhere.jsonl")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadOption, match="needs the library"):
        load("hub:openai_humaneval")


@pytest.mark.parametrize("name, asked", [
    ("humaneval", ("humaneval", None, "test")), ("me/set", ("me/set", None, "test")), ("me/set/3.0.0:validation", ("me/set", "3.0.0", "validation")),
])  # fmt: skip
def test_a_hub_set_is_asked_for_by_name_configuration_and_split(monkeypatch, name, asked):
    def load_dataset(where, config, split):
        assert (where, config, split) == asked
        return [{"prompt": "def f():", "task_id": "HumanEval/0"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (item,) = load(f"hub:{name}")
    assert (item.id, item.prompt) == ("HumanEval/0", "def f():")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_, **__: 1 / 0))
    with pytest.raises(BadOption, match="cannot be read"):
        load(f"hub:{name}")


def test_picking_is_even_over_tasks():
    items = [Item(str(n), task, ("x",)) for task, many in (("a", 50), ("b", 3)) for n in range(many)]
    assert [item.task for item in pick(items, 5)] == ["a", "a", "a", "b", "b"]
    assert pick(items, None) == items and len(pick(items, 1000)) == 53


def test_answers_in_spec_bench_format():
    turns = [{"text": "A", "new_tokens": 3, "wall_time": 0.5, "accept_lengths": [2, 1]}]
    turns += [{"text": "B", "new_tokens": 1, "wall_time": 0.1, "accept_lengths": [1]}]
    line = spec_bench_answer(Item("81", "writing", ("one", "two")), turns, "draft_model-k4", 12.5)
    assert line["question_id"] == 81 and line["category"] == "writing" and line["model_id"] == "draft_model-k4" and line["tstamp"] == 12.5
    assert line["choices"] == [
        {"index": 0, "turns": ["A", "B"], "decoding_steps": [2, 1], "new_tokens": [3, 1], "wall_time": [0.5, 0.1], "accept_lengths": [2, 1, 1]}
    ]
