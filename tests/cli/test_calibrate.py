"""`anydraft calibrate`: the mean law of the target's own texts, in a file that drafters read, and heads in the form of other tools."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from anydraft import Speculator, cli, zoo
from anydraft.core.errors import BadModel
from anydraft.training.calibration import passages
from anydraft.vocabulary.pruning import PrunedHead


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    return ended.value.code


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Statistics of 96 laws and a head with a quarter of the vocabulary."""
    folder = tmp_path_factory.mktemp("calibrated")
    assert run("calibrate", "rdk", "--tokens", 96, "--output", folder / "s", "--prune", 0.25, "--d2t", folder / "head", "--seed", 3) == 0
    return folder / "s", folder / "head"


@pytest.mark.slow
def test_is_the_mean_of_the_laws_that_the_target_had(written, tmp_path):
    """The same texts, judged again by forwards of the whole text."""
    mean = load_file(written[0])["mean_law"]
    assert float(mean.sum()) == pytest.approx(1, abs=1e-4) and bool((mean >= 0).all())
    pair = Speculator.from_pretrained(zoo.path("target"), method="none")
    prompts = passages([pair.tokenizer(p["text"], add_special_tokens=False).input_ids for p in zoo.prompts()], 2, 48)
    made = pair.generate([p.tolist() for p in prompts], max_new_tokens=64, temperature=1.0, seed=[3, 4])
    laws = []
    for g in made:
        with torch.inference_mode():
            logits = pair.model(torch.tensor([g.prompt_token_ids + g.token_ids])).logits[0]
        laws.append(logits[len(g.prompt_token_ids) - 1 : -1].double().softmax(-1))
    total = torch.cat([laws[0][:48], laws[1][:48]])  # both rows run side by side until 96 laws were seen
    assert torch.allclose(total.mean(0).float(), mean, atol=1e-5)


@pytest.mark.slow
def test_the_head_covers_more_than_its_share(written, capsys, tmp_path):
    head, mean = PrunedHead.load(written[1]), load_file(written[0])["mean_law"]
    assert 0.2 < head.kept < 0.3 and float(mean[head.ids].sum()) > 0.8
    assert set(load_file(written[1])) == {"d2t", "t2d"}
    assert run("calibrate", "fr_spec", "--tokens", 8, "--output", tmp_path / "t", "--d2t", written[1], "--temperature", 0) == 0
    shown = capsys.readouterr().out
    assert "as read" in shown and str(len(head.ids)) in shown and "temperature 0" in shown


@pytest.mark.slow
def test_as_the_error_message_says_it(tmp_path, monkeypatch, capsys):
    """Without a file fr_spec names the command; what the command then prints works as it is typed."""
    monkeypatch.chdir(tmp_path)
    line = ["generate", "import os", "--model", zoo.path("target"), "--assistant-model", zoo.path("draft-spm"), "--max-new-tokens", 4]
    assert run(*line, "--method", "fr_spec") == 2
    assert "'anydraft calibrate rdk'" in capsys.readouterr().err
    assert run("calibrate", "fr_spec", "--tokens", 8) == 0
    options = capsys.readouterr().out.partition("use it with ")[2].partition(",")[0].split()
    assert options[:2] == ["--method", "fr_spec"] and run(*line, *options) == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fr_spec", "rdk"])
def test_drafters_read_it(written, method):
    pair = Speculator.from_pretrained(zoo.path("target"), zoo.path("draft-spm"), method, 3, statistics=str(written[0]), keep_share=0.3)
    want = Speculator.from_pretrained(zoo.path("target"), method="none").generate("import os\n", max_new_tokens=12)
    assert pair.generate("import os\n", max_new_tokens=12).token_ids == want.token_ids


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["slem", "--output", "s"], "rdk or fr_spec"),
        (["rdk", "--output", "s", "--tokens", 0], "--tokens"),
        (["rdk", "--output", "s", "--temperature", -1], "--temperature"),
        (["rdk", "--output", "s", "--prune", 2, "--d2t", "h"], "--prune"),
        (["rdk", "--output", "s", "--prune", 0.5], "--d2t"),
        (["rdk", "--output", "nowhere/s"], "folder that exists"),
        (["rdk", "--output", "."], "folder that exists"),
        (["rdk", "--output", "s", "--input", "missing.txt"], "missing.txt"),
        (["rdk", "--output", "s", "--input", "empty.txt"], "holds no text"),
        (["rdk", "--output", "s", "--model", "org/name"], "--input"),
        (["rdk", "--output", "s", "--d2t", "missing"], "no such file"),
        (["rdk", "--output", "s", "--d2t", "other"], "another vocabulary"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    save_file(PrunedHead(torch.tensor([1, 2]), 5).to_tensors(), "other")
    assert run("calibrate", *arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err and "Traceback" not in shown.err and not (tmp_path / "s").exists()


def test_a_damaged_head_is_told(tmp_path):
    save_file({"d2t": torch.tensor([0, 2, 3]), "t2d": torch.tensor([True, False, True, True, False])}, str(tmp_path / "absolute"))
    with pytest.raises(BadModel, match="absolute ids"):
        PrunedHead.load(tmp_path / "absolute")


def test_passages_spread_over_every_text():
    texts = [list(range(100)), list(range(1000, 1020)), []]
    made = [p.tolist() for p in passages(texts, 6, 10)]
    assert len(made) == 6 and all(len(p) == 10 for p in made) and made[-1][0] == 1000 and made[0][0] == 0 and made[4][0] >= 60
