"""Controls are trained on what decoding sees, and what comes out decides better than chance."""

import pytest
import torch

from anydraft import Speculator, zoo
from anydraft.cli import main
from anydraft.control.disco import DISCO
from anydraft.control.specdec_plus_plus import SpecDecPlusPlus
from anydraft.core.errors import BadOption
from anydraft.core.trained import Trained
from anydraft.loading import load
from anydraft.training import disco, specdec_plus_plus
from anydraft.training.traces import Run, fit, record


def run(seen, stood, drafted):
    return Run(0, torch.arange(seen * 2).view(seen, 2).float(), stood, drafted)


def test_a_level_is_right_to_go_on_iff_the_next_token_stands():
    inputs, labels = run(5, 2, 6).examples()
    assert labels.tolist() == [1.0, 0.0, 0.0] and len(inputs) == 3  # tokens 1 and 2 stood, 3 was refused, the rest was never judged
    assert run(5, 6, 6).examples()[1].tolist() == [1.0] * 5
    assert run(5, 0, 6).examples()[1].tolist() == [0.0]


def test_a_hidden_state_belongs_to_the_token_before():
    seen, labels = specdec_plus_plus.examples(run(5, 2, 6))
    assert seen[:, 0].tolist() == [2.0, 4.0, 6.0] and labels.tolist() == [1, 1, 0]


def test_the_fit_learns_what_can_be_learned():
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 12, generator=rng)
    labels = (inputs[:, 0] > 0).float()
    net = disco.Net()
    loss = fit(net, inputs, labels, torch.nn.BCEWithLogitsLoss(), epochs=200, rate=1e-2)
    assert loss < 0.3 and ((net(inputs) > 0) == labels.bool()).float().mean() > 0.9


@pytest.fixture(scope="module")
def pair():
    (target, tokenizer), (drafter, _) = load(str(zoo.path("target"))), load(str(zoo.path("draft-bpe")))
    return Speculator(target, tokenizer, drafter, method="draft_model", num_assistant_tokens=6)


def test_traces_are_those_of_the_loop(pair):
    runs = record(pair, [zoo.demo_prompt()["text"]], disco.features, k=6, tokens=24, temperature=0.0)
    assert sum(r.stood + 1 for r in runs) >= 18 and all(len(r.seen) in (r.drafted, r.drafted - 1) for r in runs)


@pytest.mark.parametrize("recipe, control", [(disco, DISCO), (specdec_plus_plus, SpecDecPlusPlus)])
def test_a_trained_file_is_used_for_its_pair(pair, tmp_path, recipe, control):
    prompts = [p["text"][:200] for p in zoo.prompts()[:5]]
    made = recipe.train(pair, prompts, tmp_path / "c.safetensors", k=6, tokens=16, say=lambda line: None)
    assert made.settings["threshold"] in recipe.THRESHOLDS and made.pair == pair.pace.pair
    assert Trained.load(tmp_path / "c.safetensors", made.kind).notes["seconds_per_token"]
    name = made.kind
    ours = Speculator(pair.model, pair.tokenizer, pair.assistant_model, method="draft_model", control=name, weights=str(tmp_path / "c.safetensors"))
    plain = Speculator(pair.model, pair.tokenizer, method="none")
    assert ours.generate(prompts[0], max_new_tokens=12).token_ids == plain.generate(prompts[0], max_new_tokens=12).token_ids
    assert isinstance(ours.parts().control, control)


def test_too_few_prompts_are_refused(pair, tmp_path):
    with pytest.raises(BadOption, match="too few"):
        disco.train(pair, ["a"], tmp_path / "c.safetensors")


@pytest.mark.parametrize("arguments", [["train", "diso"], ["train", "disco", "--prompts", "missing.jsonl"]])
def test_the_command_says_what_is_wrong(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and capsys.readouterr().err.startswith("Error: ")
