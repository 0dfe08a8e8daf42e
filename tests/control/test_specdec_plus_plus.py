"""SpecDec++ keeps the law whatever its head says, multiplies acceptances, and refuses files for other models or temperatures."""

import pytest
import torch
from lookahead import Hiding, distances
from toys import EXACT, V, ask

from anydraft.control.specdec_plus_plus import SpecDecPlusPlus, accepts
from anydraft.core.errors import UnsupportedModel, WrongPair
from anydraft.core.records import Context, Level
from anydraft.core.trained import Trained


def head(seed=0, width=V, blocks=2):
    rng = torch.Generator().manual_seed(seed)
    made = {
        f"block{i}.{part}": torch.randn(*shape, generator=rng)
        for i in range(blocks)
        for part, shape in (("weight", (width, width)), ("bias", (width,)))
    }
    return made | {"out.weight": torch.randn(2, width, generator=rng), "out.bias": torch.randn(2, generator=rng)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "head.safetensors"
    Trained("specdec_plus_plus", "aa", 1.0, head(), {"threshold": 0.5, "most": 3}).save(path)
    return path


@pytest.mark.parametrize("threshold, least", [(0.2, 1), (0.5, 1), (0.8, 2)])
def test_keeps_the_law(file, threshold, least):
    assert max(distances(lambda: SpecDecPlusPlus(file, threshold, least), cls=Hiding)) < EXACT


def level(depth, hidden):
    return Level(
        depth=depth, token=torch.zeros(1).long(), prob=torch.ones(1), logits=torch.zeros(1, V), live=torch.ones(1).bool(), hidden=hidden
    )


def test_the_product_of_acceptances_decides_and_the_first_state_does_not_count(file):
    context, states = Context.start([ask(9)]), [torch.randn(1, V) for _ in range(3)]
    chances = [float(accepts(head(), s)[0]) for s in states]
    standing = 1 - chances[1] * chances[2]
    for threshold, expected in ((standing - 0.01, False), (standing + 0.01, True)):
        go_on = SpecDecPlusPlus(file, threshold).size(context).go_on
        first = go_on(context, level(1, states[0]))
        go_on(context, level(2, states[1]))
        assert first.item() is True and go_on(context, level(3, states[2])).item() is expected


def test_a_drafter_without_hidden_states_is_refused(file):
    with pytest.raises(UnsupportedModel, match="hidden"):
        distances(lambda: SpecDecPlusPlus(file))


def test_a_file_for_another_pair_or_temperature_is_refused_or_warned_about(file):
    with pytest.raises(WrongPair):
        SpecDecPlusPlus(file, pair="bb")
    with pytest.warns(UserWarning):
        SpecDecPlusPlus(file, pair="bb", force=True)
    with pytest.raises(WrongPair):
        SpecDecPlusPlus(file).open(Context.start([ask(4, temperature=0.5)]))
