"""Confidence keeps the law, stops behind the first doubtful token, and fits its threshold to what was judged."""

import pytest
import torch
from lookahead import TriggerDropped, distances, exported_state_is_enough
from sklearn.metrics import roc_curve
from toys import EXACT, ask

from anydraft.control.confidence import Confidence, fitted
from anydraft.core.records import Context, Level


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_keeps_the_law(refit, threshold):
    assert max(distances(lambda: Confidence(3, threshold, refit))) < EXACT


def test_dropping_the_trigger_token_is_seen():
    assert max(distances(lambda: Confidence(3, 0.6), around=TriggerDropped)) > 1e-3


def test_state_moves_with_its_request():
    assert exported_state_is_enough(lambda: Confidence(3, 0.5, refit=True))


def test_goes_on_at_the_threshold_and_not_below():
    context = Context.start([ask(4)] * 3)
    level = Level(
        depth=1, token=torch.zeros(3).long(), prob=torch.tensor([0.39, 0.4, 0.9]), logits=torch.zeros(3, 3), live=torch.ones(3).bool()
    )
    assert Confidence(4, 0.4).size(context).go_on(context, level).tolist() == [False, True, True]


@pytest.mark.parametrize("seed", range(8))
def test_the_fit_is_the_best_point_of_scikit_learns_curve(seed):
    rng = torch.Generator().manual_seed(seed)
    probs = torch.rand(60, generator=rng).double()
    stood = torch.rand(60, generator=rng) < probs
    pairs = list(zip(probs.tolist(), stood.tolist()))
    fpr, tpr, cuts = roc_curve(stood, probs, drop_intermediate=False)
    loss = {min(1.0, float(cut)): float(f + 3 * (1 - t)) for f, t, cut in zip(fpr, tpr, cuts)}
    found = fitted(pairs)
    assert found is not None
    ours = loss[found] if found > 0 else 1.0
    assert ours == pytest.approx(min(loss.values()), abs=1e-9)


def test_no_fit_without_both_classes_or_with_few_tokens():
    assert fitted([(0.5, True)] * 20) is None
    assert fitted([(0.5, True), (0.4, False)]) is None
