"""Plans rank by the modelled speed-up, fall back to plain decoding, come back from disk, and are refused for other models."""

import json
from dataclasses import replace

import pytest

from anydraft import Speculator, zoo
from anydraft.core.errors import BadModel, BadOption, WrongPair
from anydraft.engine.fingerprint import fingerprint
from anydraft.loading import load
from anydraft.planning.plan import Option, Plan, examine, ranked


def option(name, speed, k=3, method="draft_model", drafter="dd"):
    return Option(method, name, k, speed, speed - 0.1, speed + 0.1, [0.5], {}, 1, "because", drafter)


@pytest.fixture(scope="module")
def models():
    return load(str(zoo.path("target"))), load(str(zoo.path("draft-bpe")))


def test_ranking_and_the_fall_back(models):
    (target, _), _ = models
    made = ranked("t", target, [option("a", 1.2), option("b", 1.8), option("c", 1.01)], objective="latency", batch=1, temperature=0.0)
    assert [o.candidate for o in made.options] == ["b", "a", "none", "c"]
    assert ranked("t", target, [option("c", 0.9)], objective="latency", batch=1, temperature=0.0).settings() == {"method": "none"}
    with pytest.raises(BadOption):
        ranked("t", target, [], objective="beauty", batch=1, temperature=0.0)


def test_it_comes_back_and_is_refused_for_other_models(models, tmp_path):
    (target, _), (drafter, _) = models
    made = ranked("t", target, [option("a", 1.5, drafter=fingerprint(drafter))], objective="latency", batch=1, temperature=0.0)
    made.save(tmp_path / "plan.json")
    back = Plan.load(tmp_path / "plan.json")
    assert back == made
    back.check(target, drafter)
    with pytest.raises(WrongPair, match="another target"):
        back.check(drafter)
    with pytest.raises(WrongPair, match="another drafter"):
        back.check(target, target)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": 1}), json.dumps({"format": 1, "options": []})])
def test_files_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(BadModel):
        Plan.load(tmp_path / "plan.json")


def test_exports_say_what_others_can_express():
    best = option("org/small", 1.5, 4)
    plan = Plan("m", "tt", "latency", 1, 0.0, [best])
    assert plan.vllm() == {"method": "draft_model", "model": "org/small", "num_speculative_tokens": 4}
    assert plan.llama_cpp() == ["--model-draft", "org/small.gguf", "--draft-max", "4", "--draft-min", "1"]
    copying = replace(plan, options=[option("prompt_lookup", 2.0, 8, "prompt_lookup", None)])
    assert copying.vllm()["method"] == "ngram" and copying.llama_cpp() is None
    assert replace(plan, options=[option("s", 2.0, 8, "slem")]).vllm() is None


def test_fingerprints_tell_weights_apart_and_not_dtypes(models):
    (target, _), (drafter, _) = models
    assert fingerprint(target) != fingerprint(drafter) and fingerprint(drafter) == fingerprint(drafter)
    import copy

    other = copy.deepcopy(drafter)
    assert fingerprint(other.bfloat16()) == fingerprint(drafter)
    next(other.parameters()).data.add_(1.0)
    assert fingerprint(other) != fingerprint(drafter)


def test_a_candidate_is_measured_on_the_real_parts(models):
    (target, tokenizer), (drafter, _) = models
    pair = Speculator(target, tokenizer, drafter, method="draft_model", num_assistant_tokens=16)
    found, predictions = examine("draft-bpe", pair, [zoo.demo_prompt()["text"]], batch=1, temperature=0.0, tokens=24)
    assert found.drafter == fingerprint(drafter) and found.speedup == max(p.speedup for p in predictions)
    assert 0 < found.acceptance[0] <= 1 and found.acceptance == sorted(found.acceptance, reverse=True)
    assert predictions[0].speedup == 1.0 and "plain step" in found.reason
    trees = Speculator(target, tokenizer, method="token_recycling")
    with pytest.raises(BadOption, match="trees"):
        examine("token_recycling", trees, ["x"], batch=1, temperature=0.0)


def test_generate_follows_a_plan_and_refuses_another_targets(models, tmp_path, capsys):
    from anydraft.cli import main

    (target, _), (drafter, _) = models
    best = option(str(zoo.path("draft-bpe")), 1.5, 2, drafter=fingerprint(drafter))
    made = ranked(str(zoo.path("target")), target, [best], objective="latency", batch=1, temperature=0.0)
    made.save(tmp_path / "plan.json")
    with pytest.raises(SystemExit) as end:
        main(["generate", "import os", "--plan", str(tmp_path / "plan.json"), "--max-new-tokens", "8", "--json"])
    counted = json.loads(capsys.readouterr().out)["metrics"]["speculative_decoding"]
    assert end.value.code == 0 and counted["num_spec_tokens"] == 2
    replace(made, target="0" * 16).save(tmp_path / "other.json")
    with pytest.raises(SystemExit) as end:
        main(["generate", "import os", "--plan", str(tmp_path / "other.json"), "--max-new-tokens", "8"])
    assert end.value.code == 2 and "another target" in capsys.readouterr().err
