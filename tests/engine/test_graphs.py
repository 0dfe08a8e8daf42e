"""A recording gives the very bits of the model it was made from, and steps aside wherever it might not."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from recorded import ragged, steps, tiny

from anydraft.core.records import Context, Draft, Request
from anydraft.engine import graphs
from anydraft.engine.transformers import TransformersModel


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_same_bits_as_the_model_itself(monkeypatch, width):
    recorded = TransformersModel(tiny())
    ours = steps(recorded, width=width)
    assert recorded._recorder._recordings and recorded._recorder._agreed[width, 1] and not recorded._recorder._refused
    monkeypatch.setattr(graphs, "AFTER", 10**9)
    for a, b in zip(ours, steps(TransformersModel(tiny()), width=width)):
        assert torch.equal(a, b)


def test_ragged_rows_give_the_same_bits(monkeypatch):
    recorded, itself = TransformersModel(tiny()), TransformersModel(tiny())
    recorded._keeps = itself._keeps = False  # a recording gives the logits of all columns, and a head sums one column in another order
    ours = ragged(recorded)
    assert 2 in recorded._recorder._recordings and recorded._recorder._agreed[3, 2] and not recorded._recorder._refused
    monkeypatch.setattr(graphs, "AFTER", 10**9)
    for a, b in zip(ours, ragged(itself)):
        assert torch.equal(a, b)


def test_engines_of_one_model_share_its_recordings_also_in_threads(monkeypatch):
    model = tiny()
    engines = [TransformersModel(model) for _ in range(3)]
    assert len({id(engine._recorder) for engine in engines}) == 1 and TransformersModel(tiny())._recorder is not engines[0]._recorder
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(steps, engines))
    assert engines[0]._recorder._agreed[1, 1] and not engines[0]._recorder._refused and all(p.requires_grad for p in model.parameters())
    monkeypatch.setattr(graphs, "AFTER", 10**9)
    for want, *got in zip(steps(TransformersModel(tiny())), *made):
        assert all(torch.equal(one, want) for one in got)


def test_the_model_is_as_it_was():
    model = tiny()
    before = [(id(p), p.requires_grad, p.data_ptr()) for p in model.parameters()]
    engine = TransformersModel(model)
    steps(engine, 20)
    assert engine._recorder._recordings
    assert [(id(p), p.requires_grad, p.data_ptr()) for p in model.parameters()] == before and before[0][1]


def test_a_new_cache_begins_with_the_model_itself():
    """A prompt of one token: the first forward of a text has a shape that is long trusted, and no slots to write to yet."""
    engine = TransformersModel(tiny())
    steps(engine, 40)
    assert engine._recorder._agreed[1, 1]
    engine.reset()
    short = Context.start([Request(prompt=torch.tensor([3]), max_new_tokens=4)])
    assert torch.equal(engine.score(short, Draft.empty(1)).logits, TransformersModel(engine.model).score(short, Draft.empty(1)).logits)


def test_a_model_with_hooks_runs_itself_and_calls_them():
    model, called = tiny(), []
    model.model.layers[0].register_forward_hook(lambda *a: called.append(1))
    engine = TransformersModel(model)
    steps(engine, 30)
    assert not engine._recorder._recordings and len(called) >= 30


def test_weights_changed_in_place_or_exchanged_are_seen():
    model = tiny()
    engine = TransformersModel(model)
    steps(engine, 20)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    engine.reset()
    assert torch.equal(steps(engine, 20)[-1], steps(TransformersModel(model), 20)[-1])
    model.lm_head.weight = torch.nn.Parameter(torch.randn(61, 32))
    engine.reset()
    assert not engine._recorder._recordings
    assert torch.equal(steps(engine, 20)[-1], steps(TransformersModel(model), 20)[-1])


def test_a_shape_that_differs_in_a_bit_stays_with_the_model(monkeypatch):
    engine = TransformersModel(tiny())
    attention = engine.model.model.layers[0].self_attn
    forward = attention.forward

    def planted(*arguments, **options):  # Python decides, and decides otherwise while it is recorded
        output, weights = forward(*arguments, **options)
        return (output * (1.5 if torch.jit.is_tracing() else 1.0), weights)

    monkeypatch.setattr(attention, "forward", planted)
    steps(engine, 30)
    assert engine._recorder._refused == {(1, 1)}


@pytest.mark.parametrize("changes", [{"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}])
def test_what_changes_with_the_length_is_never_recorded(changes):
    engine = TransformersModel(tiny(**changes))
    steps(engine, 20)
    assert not engine._recorder._recordings


def test_an_architecture_with_experts_is_not_among_them():
    assert not {"mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"} & graphs.RECORDED


def test_a_recording_dies_with_its_model():
    """torch keeps traced functions for ever; the weights must not stay with them."""
    model = tiny()
    engine = TransformersModel(model)
    steps(engine, 20)
    assert engine._recorder._recordings
    storage = model.lm_head.weight.untyped_storage()
    held = torch._C._storage_Use_Count(storage._cdata)
    del model, engine
    gc.collect()
    assert torch._C._storage_Use_Count(storage._cdata) < held and torch._C._storage_Use_Count(storage._cdata) == 1


def test_hidden_states_are_the_models_own_and_leave_nothing_on_it():
    """transformers, when it is asked for them, leaves hooks for good: later engines of that model would neither record nor be alone with it."""
    model = tiny()
    engine = TransformersModel(model)
    engine.offers_hidden = True
    steps(engine, count=5)
    text = torch.cat([torch.arange(1, 40), torch.tensor([3, 8, 13, 18])])  # as `steps` lets it grow
    with torch.no_grad():
        want = model.model(text[None]).last_hidden_state[:, -1]
    assert torch.allclose(engine.hidden, want, atol=1e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
