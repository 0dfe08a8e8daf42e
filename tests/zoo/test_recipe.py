"""The recipe repeats: same split, same prompts, and a training run that learns and saves what can be loaded."""

import itertools
import json
import math
import sys
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from anydraft import zoo
from anydraft.zoo import recipe


def lines(count):
    return "".join(f"def function_{i}(argument):\n    return argument + {i}\n\n\n" for i in range(count))


@pytest.fixture
def small_corpus(monkeypatch):
    """Two made-up files instead of the standard library, so that a run takes seconds."""
    made = [recipe.File("a.py", lines(200)), recipe.File("b.py", "x = 'ü'\n" * 100)], [recipe.File("c/d.py", lines(60))]
    monkeypatch.setattr(recipe, "corpus", lambda: made)
    return made


def test_the_split_is_by_path_and_leaves_out_what_it_says(tmp_path, monkeypatch):
    held = next(f"m{i}" for i in range(1000) if recipe.is_held_out(f"m{i}.py"))
    kept = next(f"m{i}" for i in range(1000) if not recipe.is_held_out(f"m{i}.py"))
    for name in (held, kept, "_sysconfigdata_x", "test/t", "pkg/inner"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#" * 200)
    (tmp_path / "short.py").write_text("#" * 199)
    (tmp_path / "latin.py").write_bytes(b"\xe4" * 300)
    monkeypatch.setattr(recipe.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    train, held_out = recipe.corpus()
    assert [file.path for file in held_out] == [f"{held}.py"]
    assert [file.path for file in train] == sorted([f"{kept}.py", "pkg/inner.py"])


def test_prompts_leave_each_others_continuation_alone(small_corpus):
    tokenizer = Tokenizer.from_file(str(zoo.path("target") / "tokenizer.json"))
    made, text = recipe.make_prompts(tokenizer), small_corpus[1][0].text
    assert made == recipe.make_prompts(tokenizer) and len(made) >= 3
    ends = 0
    for prompt in made:
        start = text.index(prompt["text"])
        assert start >= ends and (start == 0 or text[start - 1] == "\n")
        ends = start + len(prompt["text"])
        after = tokenizer.encode(text[ends:], add_special_tokens=False)
        ends += after.offsets[recipe.GAP_TOKENS - 2][0]  # cutting a text moves a token boundary by a little


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="the bundled prompts are of Python 3.11.7's library")
def test_the_bundled_prompts_are_made_again(tmp_path):
    recipe.main(["prompts", "--into", str(tmp_path)])
    assert (tmp_path / "prompts.jsonl").read_bytes() == (zoo.FOLDER / "prompts.jsonl").read_bytes()


def test_tokenizers_and_a_model_are_trained_saved_and_loaded(small_corpus, tmp_path, monkeypatch, capsys):
    recipe.main(["tokenizers", "--into", str(tmp_path)])
    for kind in ("bpe", "spm"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"tokenizer-{kind}")
        ids = tokenizer("naïve ü\n    x", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "naïve ü\n    x", kind
    monkeypatch.setitem(recipe.SHAPES, "draft-bpe", recipe.Shape(1, 16, 32, 2, "bpe", 3e-3))
    ticks = itertools.count()  # a clock of one tick per step: 120 steps on any machine
    monkeypatch.setattr(recipe, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    recipe.main(["draft-bpe", "--into", str(tmp_path), "--minutes", "2"])
    (last,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("draft-bpe:"))
    words = AutoModelForCausalLM.from_pretrained(tmp_path / "draft-bpe").config.vocab_size
    assert 0 < float(last.split()[-4]) < 0.8 * math.log(words), "a model that learnt nothing has the logarithm of its vocabulary"
    assert words == len(AutoTokenizer.from_pretrained(tmp_path / "draft-bpe"))


def test_bundled_tokenizers_are_of_the_recipe_kind():
    for name, shape in recipe.SHAPES.items():
        state = json.loads((zoo.path(name) / "tokenizer.json").read_text(encoding="utf-8"))
        assert bool(state["model"]["byte_fallback"]) is (shape.tokenizer == "spm")
