"""What surrounds a CUDA graph, with a graph that is played by running the model again: shapes, comparison, eviction. The capture itself needs a GPU."""

from types import SimpleNamespace

import pytest
import torch
from recorded import ragged, steps, tiny

from anydraft.core.records import Context, Draft, Request
from anydraft.engine import cuda_graphs
from anydraft.engine.cuda_graphs import CudaGraphs, _Captured
from anydraft.engine.graphs import forward_of
from anydraft.engine.transformers import TransformersModel


@pytest.fixture
def played(monkeypatch):
    """Engines that capture; `wrong` makes every replay differ in one bit."""
    asked = SimpleNamespace(wrong=False, captured=0, replayed=0)

    def capture(self, given, held):
        inputs = [tensor.clone() for tensor in given]
        tokens, position, slots, *masks = inputs
        forward, asked.captured = forward_of(self.run, self.kinds, self.output), asked.captured + 1
        output = torch.zeros_like(forward(tokens, position, slots, masks, held))

        def replay():
            asked.replayed += 1
            output.copy_(forward(tokens, position, slots, masks, held)).add_(1e-3 if asked.wrong else 0.0)

        return _Captured(SimpleNamespace(replay=replay), inputs, output)

    monkeypatch.setattr(CudaGraphs, "_capture", capture)
    return asked


def capturing(model):
    engine = TransformersModel(model)
    old = engine._recorder
    engine._recorder = CudaGraphs(model, old.run, old.kinds, old.output)
    engine.reset()
    return engine


@pytest.mark.parametrize("width", [1, 4])
def test_replays_are_the_model_itself(played, width):
    for a, b in zip(steps(capturing(tiny()), width=width), steps(TransformersModel(tiny()), width=width)):
        assert torch.allclose(a, b, atol=1e-5)
    assert 1 <= played.captured <= 3 and played.replayed > 40


def test_ragged_rows_and_rows_that_come_and_go(played):
    for a, b in zip(ragged(capturing(tiny())), ragged(TransformersModel(tiny()))):
        assert torch.allclose(a, b, atol=1e-5)
    assert played.replayed > 10


def test_a_bit_that_differs_ends_it_for_that_shape(played):
    played.wrong = True
    engine = capturing(tiny())
    for a, b in zip(steps(engine), steps(TransformersModel(tiny()))):
        assert torch.allclose(a, b, atol=1e-5)
    assert played.captured == played.replayed == len(engine._recorder._refused) and not engine._recorder._graphs


def test_what_cannot_be_captured_runs_as_it_is(played, monkeypatch):
    monkeypatch.setattr(CudaGraphs, "_capture", lambda self, given, held: None)
    engine = capturing(tiny())
    assert len(steps(engine)) == 60 and engine._recorder._refused


def test_few_graphs_are_kept_and_other_weights_need_others(played, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST", 2)
    engine = capturing(tiny())
    for width in (1, 2, 3):
        steps(engine, width=width, count=8)
    assert len(engine._recorder._graphs) == 2
    engine.model.lm_head.weight = torch.nn.Parameter(engine.model.lm_head.weight.clone())
    engine.reset()
    assert not engine._recorder._graphs


def test_an_output_is_not_overwritten_by_the_next_replay(played):
    engine = capturing(tiny())
    context, raw = Context.start([Request(prompt=torch.arange(1, 40), max_new_tokens=400)]), []
    for n in range(20):
        raw.append(engine.score(context, Draft.empty(1)).logits)
        context = context.extended([[(5 * n + 3) % 61]])
    assert played.replayed > 10 and not torch.equal(raw[-1], raw[-2])


def test_the_next_text_finds_the_graphs_of_the_last_one(played):
    """On a GPU the slots stay, and with them what writes to them; whatever they held before is seen by nobody."""
    engine = capturing(tiny())
    engine._keeps_slots = True
    first = steps(engine)
    captured = played.captured
    engine.reset()
    again = steps(engine)
    assert played.captured == captured and all(torch.equal(a, b) for a, b in zip(first, again))


def test_a_refused_graph_leaves_nothing_in_the_slots(played, monkeypatch):
    """What a wrong replay wrote is written again by the model."""
    capture = CudaGraphs._capture

    def spoiling(self, given, held):
        made = capture(self, given, held)
        replay = made.graph.replay

        def wrong():
            replay()
            for tensor in held:
                tensor[:, :, given[2]] = 7.0

        made.graph.replay, played.wrong = wrong, True
        return made

    monkeypatch.setattr(CudaGraphs, "_capture", spoiling)
    for a, b in zip(steps(capturing(tiny())), steps(TransformersModel(tiny()))):
        assert torch.allclose(a, b, atol=1e-5)


def batch(engine, rows):
    engine.reset()
    engine.reset()  # a benchmark does it after a run, and a run before itself
    context = Context.start([Request(prompt=torch.arange(1, 30 + b), max_new_tokens=40) for b in range(rows)])
    made = []
    for n in range(12):
        made.append(engine.score(context, Draft.empty(rows)).logits.clone())
        context = context.extended([[(5 * n + 3) % 61]] * rows)
    return made


def test_batches_of_other_sizes_come_and_go(played):
    """A graph is of the slots that it was captured with; slots of another batch are given up, and NaN in slots that stay reaches nobody."""
    engine, itself = capturing(tiny()), TransformersModel(tiny())
    engine._keeps_slots = True
    for rows in (1, 3, 1, 1, 1):
        for a, b in zip(batch(engine, rows), batch(itself, rows)):
            assert torch.allclose(a, b, atol=1e-5)
        with torch.inference_mode():
            for layer in engine._cache.layers:
                layer.keys.fill_(float("nan"))
    captured = played.captured
    batch(engine, 1)
    assert played.captured == captured
