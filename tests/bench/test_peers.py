"""Peers join under their own conditions: what is not installed says so, what needs a copy of its own gets one, what fails is a row."""

import sys
from types import SimpleNamespace

import pytest

from anydraft.bench import peers
from anydraft.bench.measure import Job, measure_round
from anydraft.bench.ours import Ours
from anydraft.bench.pairs import Pair, Settings
from anydraft.core.errors import BadOption
from anydraft.testing.unchanged import fingerprint


@pytest.fixture(scope="module")
def same():
    return Pair.load("target", "draft-bpe")


@pytest.fixture(scope="module")
def other():
    return Pair.load("target", "draft-spm")


def job(pair, tokens=10, temperature=0.0):
    text = "import os\n\n\ndef listing(folder):\n    return os.listdir(folder)\n\n\ndef listing_sorted(folder):\n"
    return Job("p", [pair.tokenizer(text).input_ids], tokens, temperature)


def test_an_unknown_peer_is_refused_with_the_nearest(same):
    with pytest.raises(BadOption, match="Did you mean 'transformers'"):
        peers.contenders("transformer", same, Settings())


@pytest.mark.parametrize("system, module", [("llama_cpp", "llama_cpp"), ("openvino", "openvino_genai")])
def test_what_is_not_installed_says_so(same, monkeypatch, system, module):
    monkeypatch.setitem(sys.modules, module, None)
    found, reason = peers.contenders(system, same, Settings())
    assert found == [] and "not installed" in reason


def test_a_peer_that_cannot_be_made_is_a_reason(same, monkeypatch):
    """A broken installation, a file that it cannot read, an error of its constructor: never the end of the benchmark."""
    monkeypatch.setattr("anydraft.bench.peers.transformers.contenders", lambda pair, settings: 1 / 0)
    assert peers.contenders("transformers", same, Settings()) == ([], "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("system, module, name", [("llama_cpp", "llama_cpp", "ANYDRAFT_GGUF"), ("openvino", "openvino_genai", "ANYDRAFT_OPENVINO")])
def test_a_wrong_place_is_named_by_its_variable(same, monkeypatch, system, module, name):
    fake = SimpleNamespace(__path__=[], GGML_TYPE_F32=0)
    monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_speculative", SimpleNamespace(LlamaPromptLookupDecoding=None))
    monkeypatch.setenv(name, "/no/such/place")
    found, reason = peers.contenders(system, same, Settings())
    assert found == [] and name in reason and "/no/such" not in reason
    assert "one prompt" in (reason := peers.contenders(system, same, Settings(batch_size=2))[1]) or "batch" in reason


@pytest.mark.slow
@pytest.mark.parametrize("system, module", [("llama_cpp", "llama_cpp"), ("openvino", "openvino_genai")])
def test_the_real_library_gives_the_targets_own_ids(same, system, module):
    pytest.importorskip(module, reason=f"pip install 'anydraft[{system}]'")
    pytest.importorskip("gguf", reason=f"pip install 'anydraft[{system}]'")
    found, reason = peers.contenders(system, same, Settings(lookaheads=(4,)))
    assert reason is None and len(found) >= 2
    rivals, long = [Ours(same.target, same.tokenizer, "none"), *found], job(same, 4)
    long.prompts[0][:0] = list(range(1, 700))  # longer than one batch of llama.cpp
    rows = [m for one in (job(same), long) for m in measure_round(rivals, one, 0, 0, reference="anydraft none")]
    assert [(m.contender, m.error, m.same) for m in rows if m.error or not m.same] == []
    assert all(0 < m.first_s <= m.seconds for m in rows)


def test_names_say_how_each_was_asked(same, other):
    names = [c.name for c in peers.contenders("transformers", same, Settings(lookaheads=(3,)))[0]]
    assert names == ["transformers plain", "transformers prompt lookup k=10", "transformers assisted default", "transformers assisted k=3"]
    assert [c.name for c in peers.contenders("transformers", other, Settings(lookaheads=()))[0]][-1] == "transformers universal (SLEM) default"
    assert [c.name for c in peers.contenders("transformers", same, Settings(batch_size=2))[0]] == ["transformers plain"]


def test_everybody_gives_the_same_ids(same, other):
    for pair in (same, other):
        rivals = [Ours(pair.target, pair.tokenizer, "none"), *peers.contenders("transformers", pair, Settings(lookaheads=(3,)))[0]]
        rows = list(measure_round(rivals, job(pair), 0, 0, reference="anydraft none"))
        assert [(m.contender, m.error, m.same) for m in rows] == [(c.name, None, True) for c in rivals]
        assert all(m.first_s is not None and 0 < m.first_s <= m.seconds for m in rows)


def test_a_peer_that_rewrites_its_drafter_does_not_touch_ours(other):
    """transformers 5.23 replaces embedding and head of a sampling drafter with another vocabulary; it works on a copy."""
    before = fingerprint(other.drafter), fingerprint(other.target)
    rivals, _ = peers.contenders("transformers", other, Settings(temperature=1.0, lookaheads=()))
    shipped, repaired = [m for m in measure_round(rivals, job(other, 6, 1.0), 0, 0) if "TLI" in m.contender]
    assert "not lossless" in shipped.contender and "repaired" in repaired.contender
    assert all(m.error is None and 1 <= m.tokens <= 6 for m in (shipped, repaired))  # they sample, and may end early
    again, _ = peers.contenders("transformers", other, Settings(temperature=0.5, lookaheads=()))
    once = [next(c for c in made if "not lossless" in c.name) for made in (rivals, again)]
    assert once[0] is once[1]  # a second one in the same process would fail
    assert (fingerprint(other.drafter), fingerprint(other.target)) == before
