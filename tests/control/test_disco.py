"""DISCO keeps the law whatever its net says, looks at what the paper says, and refuses a file for other models or temperatures."""

import math

import pytest
import torch
from lookahead import distances
from toys import EXACT, ask

from anydraft.control.disco import DISCO, FEATURES, classify, features
from anydraft.core.errors import BadModel, WrongPair
from anydraft.core.records import Context, Level
from anydraft.core.trained import Trained


def net(seed=0, width=8):
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    return {"in.weight": draw(width, FEATURES), "in.bias": draw(width), "out.weight": draw(1, width), "out.bias": draw(1)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "disco.safetensors"
    Trained("disco", "aa", 1.0, net(), {"threshold": 0.5, "most": 3}).save(path)
    return path


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_keeps_the_law(file, threshold):
    assert max(distances(lambda: DISCO(file, threshold))) < EXACT


def test_the_features_are_top_ten_entropy_and_place():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]))
    level = Level(depth=4, token=torch.zeros(2).long(), prob=torch.ones(2), logits=logits, live=torch.ones(2).bool())
    found = features(level)
    assert found.shape == (2, FEATURES)
    assert found[0, :4].tolist() == pytest.approx([0.5, 0.25, 0.25, 0.0])
    assert found[:, 10].tolist() == pytest.approx([1.5 * math.log(2) / 4, 0.0], abs=1e-6) and found[:, 11].tolist() == [0.5, 0.5]


def test_the_threshold_decides(file):
    context = Context.start([ask(4)])
    logits = torch.randn(1, 20)
    level = Level(depth=1, token=torch.zeros(1).long(), prob=torch.ones(1), logits=logits, live=torch.ones(1).bool())
    said = float(classify(net(), features(level))[0])
    assert DISCO(file, said - 0.01).size(context).go_on(context, level).item() is True
    assert DISCO(file, said + 0.01).size(context).go_on(context, level).item() is False


def test_a_file_for_another_pair_is_refused_or_warned_about(file):
    assert DISCO(file, pair="aa").most == 3
    with pytest.raises(WrongPair, match="another pair"):
        DISCO(file, pair="bb")
    with pytest.warns(UserWarning, match="another pair"):
        DISCO(file, pair="bb", force=True)


def test_a_file_for_another_temperature_is_refused_or_warned_about(file):
    DISCO(file).open(Context.start([ask(4, temperature=1.0)]))
    with pytest.raises(WrongPair, match="another temperature"):
        DISCO(file).open(Context.start([ask(4, temperature=0.0)]))
    with pytest.warns(UserWarning, match="another temperature"):
        DISCO(file, force=True).open(Context.start([ask(4, temperature=0.0)]))


def test_files_that_are_none_are_refused(tmp_path, file):
    (tmp_path / "text.safetensors").write_text("not weights")
    Trained("specdec_plus_plus", "aa", 1.0, net(), {}).save(tmp_path / "other.safetensors")
    for path in (tmp_path / "missing.safetensors", tmp_path / "text.safetensors", tmp_path / "other.safetensors"):
        with pytest.raises(BadModel):
            DISCO(path)
    with pytest.raises(BadModel, match="anydraft train disco"):
        DISCO()


def test_a_bundled_file_is_found_by_pair(tmp_path, file):
    file.rename(tmp_path / "disco-aa.safetensors")
    assert DISCO(shipped=tmp_path, pair="aa").threshold == 0.5
