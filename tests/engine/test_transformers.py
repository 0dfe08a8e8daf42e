"""The engine's logits are those of the model without a cache, whatever rows do: ragged, branching, accepted, joined, rewritten."""

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from anydraft.build import assemble
from anydraft.core.errors import BadPrompt, UnsupportedModel
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Draft, Request
from anydraft.core.stopping import Stopping
from anydraft.engine.transformers import TransformersModel
from anydraft.schedules.sequential import sequential
from anydraft.speculator import Speculator

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10}
TREE = [-1, -1, 0, 0, 1, 2, 4]
CHAIN = [-1, 0, 1, 2, 3, 4, 5]


def check(kit, model, logits, contexts: list[list[int]], tokens=None, parent=None, rows=None):
    """Every logit of every row is the reference's."""
    for b, ids in enumerate(contexts):
        if rows is not None and b not in rows:
            continue
        want = kit.expected(model, ids, tokens[b] if tokens else (), parent[b] if parent else ())
        error = float((logits[b] - want).abs().max() / want.abs().max().clamp_min(1))
        assert error < CLOSE[want.dtype], f"row {b}: {error:.1e}"


def continued(context: Context, kit, new: list[list[int]]) -> Context:
    """What `commit` does: tokens behind each row, in the same buffer, now final."""
    length = context.length.clone()
    for b, tokens in enumerate(new):
        context.ids[b, length[b] : length[b] + len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        length[b] += len(tokens)
    return Context(ids=context.ids, length=length, committed=length, limit=context.limit, step=context.step + 1, slot=context.slot,
                   requests=context.requests)  # fmt: skip


def texts(context: Context) -> list[list[int]]:
    return [context.row(b).tolist() for b in range(context.size)]


# -- one forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [TREE, CHAIN], ids=["tree", "chain"])
def test_ragged_rows_and_a_draft(kit, model, shape):
    rows, tokens = kit.prompts(9, 17, 4, 1), kit.prompts(*[len(shape)] * 4, seed=5)
    scores = TransformersModel(model).score(kit.context_of(rows), kit.draft_of(tokens, [shape] * 4))
    check(kit, model, scores.logits, rows, tokens, [shape] * 4)


def test_every_row_may_have_a_tree_of_its_own(kit, model):
    rows, tokens, shapes = kit.prompts(9, 17, 4), kit.prompts(4, 4, 4, seed=5), [[-1, 0, 0, 1], [-1, -1, -1, -1], [-1, 0, 1, 0]]
    check(kit, model, TransformersModel(model).score(kit.context_of(rows), kit.draft_of(tokens, shapes)).logits, rows, tokens, shapes)


def test_a_model_that_drafts_grows_level_by_level(kit, model):
    rows, tokens = kit.prompts(9, 17, 4), kit.prompts(7, 7, 7, seed=6)
    drafting, context = TransformersModel(model), kit.context_of(rows)
    got = [drafting.next(context)[:, None]]
    for level in ([0, 1], [2, 3, 4], [5, 6]):
        part = torch.tensor([[row[n] for n in level] for row in tokens])
        got.append(drafting.grow(part, torch.tensor([[TREE[n] for n in level]] * 3)))
    check(kit, model, torch.cat(got, 1), rows, tokens, [TREE] * 3)


def test_a_prompt_longer_than_a_chunk_is_fed_in_pieces(kit, model):
    rows, tokens = kit.prompts(23, 40, 5, 8), kit.prompts(7, 7, 7, 7, seed=5)
    chunked = TransformersModel(model, chunk=7)
    context = kit.context_of(rows)
    chunked.open(context)
    assert chunked.forwards == 6  # 39 ids of the longest row, 7 at a time
    check(kit, model, chunked.score(context, kit.draft_of(tokens, [TREE] * 4)).logits, rows, tokens, [TREE] * 4)
    assert chunked.forwards == 7


def counting(engine: TransformersModel) -> list[int]:
    """The columns of each forward from now on, over all of its rows."""
    columns, run = [], engine._run

    def counted(cache, tokens, *rest, **more):
        columns.append(tokens.numel())
        return run(cache, tokens, *rest, **more)

    engine._run = counted
    return columns


FAR_APART = (150, 4, 5, 60, 3, 140)  # in one forward, 894 columns


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "not opened"])
def test_short_rows_are_not_dragged_along_with_long_ones(kit, model, opened):
    rows, tokens = kit.prompts(*FAR_APART), kit.prompts(*[7] * 6, seed=5)
    engine, context = TransformersModel(model), kit.context_of(rows, max_new_tokens=16)
    columns = counting(engine)
    if opened:
        engine.open(context)
        assert columns == [2 * 149, 59, 3 * 4]
    check(kit, model, engine.score(context, kit.draft_of(tokens, [TREE] * 6)).logits, rows, tokens, [TREE] * 6)
    assert columns[-1] == 6 * (7 + 1) if opened else columns == [2 * 145, 55, 6 * (7 + 5)]


def test_a_row_that_joins_with_a_long_text_is_read_alone(kit):
    model = kit.tiny("llama")
    engine, context = TransformersModel(model), kit.context_of(kit.prompts(9, 17, 4))
    engine.score(context, Draft.empty(3))
    context = continued(context, kit, [[3], [4], [5]]).join(kit.context_of(kit.prompts(150, seed=8), slots=[7], max_new_tokens=8))
    columns = counting(engine)
    check(kit, model, engine.score(context, Draft.empty(4)).logits, texts(context))
    assert columns == [149, 4]


def test_rows_of_one_length_are_one_forward(kit):
    engine = TransformersModel(kit.tiny("llama"))
    columns, context = counting(engine), kit.context_of(kit.prompts(60, 60, 60, 60))
    engine.open(context)
    assert columns == [4 * 59]
    engine.reset()
    engine.next(context)
    assert columns == [4 * 59, 4 * 60]


@pytest.mark.parametrize("method", ["none", "draft_model"])
def test_texts_of_very_different_lengths_continue_as_each_alone(kit, method):
    target, drafter = kit.tiny("llama", torch.float64), kit.tiny("llama", torch.float64, seed=1)
    ours = Speculator(target, None, drafter if method != "none" else None, method=method, num_assistant_tokens=4)
    rows = kit.prompts(*FAR_APART, seed=3)
    alone = [ours.generate(ids, max_new_tokens=12).token_ids for ids in rows]
    assert [made.token_ids for made in ours.generate(rows, max_new_tokens=12)] == alone
    ours.max_batch_size = 3  # those that wait join others, far into their texts
    assert [made.token_ids for made in ours.generate(rows, max_new_tokens=12)] == alone


def test_a_score_that_nobody_opened_feeds_the_prompt_itself(kit, sliding):
    rows = kit.prompts(23, 40)
    check(kit, sliding, TransformersModel(sliding, chunk=7).score(kit.context_of(rows), Draft.empty(2)).logits, rows)


def test_attention_by_eager_masks_is_the_same(kit):
    rows, tokens = kit.prompts(9, 17), kit.prompts(7, 7, seed=5)
    for name in ("llama", "gemma3", "mistral_sliding", "gpt_neox"):
        model = kit.tiny(name, attention="eager")
        logits = TransformersModel(model).score(kit.context_of(rows), kit.draft_of(tokens, [TREE] * 2)).logits
        check(kit, model, logits, rows, tokens, [TREE] * 2)


def test_a_bfloat16_model_is_as_near_as_its_numbers_allow(kit):
    model = kit.tiny("llama", torch.bfloat16)
    rows, tokens = kit.prompts(9, 17), kit.prompts(7, 7, seed=5)
    logits = TransformersModel(model).score(kit.context_of(rows), kit.draft_of(tokens, [TREE] * 2)).logits
    assert logits.dtype == torch.bfloat16
    for b in range(2):
        want = kit.expected(model, rows[b], tokens[b], TREE).float()
        assert (logits[b].float() - want).abs().max() / want.abs().max() < 0.05


def test_a_window_that_is_not_applied_would_be_seen(kit, sliding):
    """The check of the sliding models can fail: without the window the logits are far off."""
    engine = TransformersModel(sliding)
    engine.windows = dict.fromkeys(engine.windows)
    rows = kit.prompts(20)
    with pytest.raises(AssertionError):
        check(kit, sliding, engine.score(kit.context_of(rows), Draft.empty(1)).logits, rows)


# -- many forwards -------------------------------------------------------------------------------------------------------


def test_an_accepted_branch_is_gathered_and_the_text_goes_on(kit, model):
    engine, rows = TransformersModel(model), kit.prompts(9, 17, 4)
    context = kit.context_of(rows)
    accepted = [[0, 2, 5], [1, 4], []]
    for turn in range(3):
        tokens = kit.prompts(7, 7, 7, seed=10 + turn)
        before = engine.forwards
        check(kit, model, engine.score(context, kit.draft_of(tokens, [TREE] * 3)).logits, texts(context), tokens, [TREE] * 3)
        assert engine.forwards == before + 1
        bonus = kit.prompts(1, 1, 1, seed=20 + turn)
        context = continued(context, kit, [[tokens[b][n] for n in path] + bonus[b] for b, path in enumerate(accepted)])
    check(kit, model, engine.score(context, Draft.empty(3)).logits, texts(context))


def test_nothing_that_was_accepted_is_fed_again(kit):
    """Two rows that accept 3 and 0 of a tree: the next forward feeds one new id per row, and the draft."""
    model = kit.tiny("llama")
    engine, context = TransformersModel(model), kit.context_of(kit.prompts(9, 17))
    engine.open(context)
    widths = []
    run = engine._run
    engine._run = lambda cache, tokens, *rest: (widths.append(tokens.shape[1]), run(cache, tokens, *rest))[1]
    tokens = kit.prompts(7, 7, seed=3)
    engine.score(context, kit.draft_of(tokens, [TREE] * 2))
    context = continued(context, kit, [[tokens[0][0], tokens[0][2], tokens[0][5], 3], [4]])
    engine.score(context, kit.draft_of(tokens, [TREE] * 2))
    assert widths == [1 + 7, 1 + 7]


def test_rows_leave_join_and_change_places(kit, model):
    engine = TransformersModel(model)
    context = kit.context_of(kit.prompts(9, 17, 4), slots=[5, 2, 9])
    for turn, rows in enumerate(([0, 1, 2], [2, 0], [0], None, [3, 1, 0, 2])):
        if rows is None:
            context = context.join(kit.context_of(kit.prompts(12, 3, 30, seed=8), slots=[0, 2, 7]))
        else:
            context = context.keep_rows(rows)
        tokens = kit.prompts(*[7] * context.size, seed=30 + turn)
        logits = engine.score(context, kit.draft_of(tokens, [TREE] * context.size)).logits
        check(kit, model, logits, texts(context), tokens, [TREE] * context.size)
        context = continued(context, kit, [[row[1], row[4], 7] for row in tokens])


def test_a_slot_that_another_request_takes_over_forgets_the_first(kit, model):
    engine = TransformersModel(model)
    rows = kit.prompts(12, 7)
    engine.score(kit.context_of(rows), Draft.empty(2))
    other = [rows[0][:6] + kit.prompts(9, seed=4)[0], rows[1]]
    check(kit, model, engine.score(kit.context_of(other), Draft.empty(2)).logits, other)


def test_slots_grow_when_texts_do(kit):
    for name in ("llama", "gemma3", "gpt2"):
        model = kit.tiny(name)
        engine, context = TransformersModel(model), kit.context_of(kit.prompts(6, 3), max_new_tokens=1)
        engine.score(context, Draft.empty(2))
        first = engine._cache.capacity
        long = context.extended([kit.prompts(150, seed=2)[0], kit.prompts(5, seed=3)[0]])
        engine._cache.capacity = min(first, 64)  # as if no more had been reserved
        for layer in engine._cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :64], layer.values[:, :, :64]
        check(kit, model, engine.score(long, Draft.empty(2)).logits, texts(long))
        assert engine._cache.capacity > 64
        check(kit, model, engine.score(context, Draft.empty(2)).logits, texts(context))


def test_a_tree_grows_beyond_the_slots(kit):
    model = kit.tiny("llama")
    engine, rows = TransformersModel(model), kit.prompts(50)
    context = kit.context_of(rows, max_new_tokens=1)
    got, tokens = [engine.next(context)[:, None]], kit.prompts(60, seed=1)
    engine._cache.capacity = 64
    for layer in engine._cache.layers:
        layer.keys, layer.values = layer.keys[:, :, :64], layer.values[:, :, :64]
    got += [engine.grow(torch.tensor([[t]]), torch.tensor([[n - 1]])) for n, t in enumerate(tokens[0])]
    check(kit, model, torch.cat(got, 1), rows, tokens, [list(range(-1, 59))])


def test_provisional_texts_longer_then_shorter_then_other(kit, model):
    """What parallel schedules do: continue on a guess, fall back, guess otherwise."""
    engine = TransformersModel(model)
    context = kit.context_of(kit.prompts(9, 17, 4))
    for turn, sizes in enumerate(([3, 0, 5], [6, 2, 1], [0, 0, 0], [6, 4, 4], [1, 1, 1])):
        guess = context.extended([row[:n] for row, n in zip(kit.prompts(6, 6, 6, seed=turn % 2), sizes)])
        tokens = kit.prompts(7, 7, 7, seed=40 + turn)
        check(kit, model, engine.score(guess, kit.draft_of(tokens, [TREE] * 3)).logits, texts(guess), tokens, [TREE] * 3)
    final = continued(context, kit, [[3, 4], [5], [6, 7, 8]])
    check(kit, model, engine.next(final)[:, None], texts(final))


def test_a_drafters_own_text_may_rewrite_its_tail(kit, model):
    """A drafter with another tokenizer re-encodes the text: its last ids change from call to call, in the caller's own buffer."""
    engine, rows = TransformersModel(model), kit.prompts(14, 9)
    context = kit.context_of(rows)
    for turn in range(6):
        new = kit.prompts(3 + turn, 2 + turn, seed=60 + turn)
        length = torch.tensor([12 + turn, 7 + turn])  # two ids of the last call are rewritten
        for b in range(2):
            context.ids[b, int(length[b]) - len(new[b]) + 1 : int(length[b]) + 1] = torch.tensor(new[b])
        own = Context(ids=context.ids, length=length + 1, committed=torch.minimum(length - len(new[1]), torch.tensor([8, 3])),
                      limit=context.limit, step=context.step, slot=context.slot, requests=context.requests)  # fmt: skip
        got = [engine.next(own)[:, None], engine.grow(torch.tensor([[5], [6]]), torch.tensor([[-1], [-1]]))]
        check(kit, model, torch.cat(got, 1), texts(own), [[5], [6]], [[-1], [-1]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral_sliding", "gpt2", "falcon"])
def test_anything_in_any_order_is_exact(kit, name, seed):
    """A random walk over all that a schedule may do, in float64, where an error of 1e-10 is a wrong mask and nothing else."""
    model, rng = kit.tiny(name, torch.float64), random.Random(seed)
    engine = TransformersModel(model, chunk=5)
    engine._price = 1 if seed % 2 else engine._price  # a forward for every length, or one for all
    context, next_slot = kit.context_of(kit.prompts(rng.randint(1, 12), rng.randint(1, 12), seed=seed)), 2
    for turn in range(14):
        action = rng.choice(["leave", "join", "shuffle", "guess", "stay", "stay"])
        if action == "leave" and context.size > 1:
            context = context.keep_rows(sorted(rng.sample(range(context.size), context.size - 1)))
        elif action == "join" and context.size < 4:
            context = context.join(kit.context_of(kit.prompts(rng.randint(1, 20), seed=100 * seed + turn), slots=[next_slot]))
            next_slot += 1
        elif action == "shuffle":
            context = context.keep_rows(rng.sample(range(context.size), context.size))
        seen = context
        if action == "guess":
            seen = context.extended([kit.prompts(4, seed=rng.randint(0, 2))[0][: rng.randint(0, 4)] for _ in range(context.size)])
        nodes = rng.randint(0, 6)
        parent = [[rng.randint(-1, n - 1) for n in range(nodes)] for _ in range(context.size)]
        tokens = [[rng.randint(0, kit.VOCAB - 1) for _ in range(nodes)] for _ in range(context.size)]
        if nodes and rng.random() < 0.3:  # as a drafter: all rows' trees alike, level by level
            parent = [parent[0]] * context.size
            got = [engine.next(seen)[:, None]]
            for n in range(nodes):
                got.append(engine.grow(torch.tensor([[row[n]] for row in tokens]), torch.tensor([[parent[0][n]]] * context.size)))
            logits = torch.cat(got, 1)
        else:
            draft = kit.draft_of(tokens, parent) if nodes else Draft.empty(context.size)
            logits = engine.score(seen, draft).logits
        check(kit, model, logits, texts(seen), tokens, parent)
        new = []
        for b in range(context.size):
            path, current = [], -1
            while (below := [n for n in range(nodes) if parent[b][n] == current]) and rng.random() < 0.7:
                current = rng.choice(below)
                path.append(tokens[b][current])
            guessed = seen.row(b)[int(context.length[b]) :].tolist()
            new.append(guessed[: rng.randint(0, len(guessed))] if action == "guess" and rng.random() < 0.5 else guessed + path)
        context = continued(context, kit, [row + [rng.randint(0, kit.VOCAB - 1)] for row in new])


# -- the state after every round of a real run ---------------------------------------------------------------------------

RUNS = {
    "chain": ("draft_model", {}),
    "tree": ("draft_model", {"branching": (3, 2, 1)}),
    "table": ("token_recycling", {}),
    "copy": ("prompt_lookup", {}),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_after_every_round_the_cache_is_that_of_a_fresh_prefill(kit, name, temperature, run):
    target, drafter = TransformersModel(kit.tiny(name)), TransformersModel(kit.tiny(name, seed=1 if temperature else 0))
    method, options = RUNS[run]
    given = {"model": drafter, "vocab_size": target.vocab_size} if method == "draft_model" else {"vocab_size": target.vocab_size}
    parts = assemble(method, given, options, rule="auto", control="fixed", num_assistant_tokens=6)
    requests = [
        Request(prompt=torch.tensor(ids * 2), max_new_tokens=9 + 4 * b, temperature=temperature, seed=b)
        for b, ids in enumerate(kit.prompts(6, 11, 3))
    ]
    waiting = [Context.start(requests[2:], [2])]  # the third is admitted when the others have begun

    def refill(context):
        context = Context.start(requests[:2], [0, 1]) if context is None else context.join(waiting.pop()) if waiting else context
        return context if context.size else None

    stopping = {s: Stopping(r) for s, r in enumerate(requests)}
    steps = accepted = 0
    for step in sequential(target, parts.drafter, parts.rule, parts.control, Keyed(), refill, stopping):
        steps += 1
        accepted += int(step.verdict.count.sum())
        with torch.inference_mode():
            for engine in (target, drafter) if method == "draft_model" else (target,):
                engine._locate(step.after)  # what was accepted moves to the front
                for b, row in enumerate(engine._rows):
                    assert row.length <= int(step.after.length[b])
                    same_state(engine, row.length, b, step.after)
            assert all(row.length == int(n) - 1 for row, n in zip(target._rows, step.after.length)), "an accepted node was lost"
    assert steps > 2 and (accepted > 0 or run == "copy" or temperature)


def same_state(engine: TransformersModel, length: int, b: int, context: Context):
    cache = DynamicCache(config=engine.model.config)
    if not length:
        return
    engine.model(input_ids=context.row(b)[None, :length], past_key_values=cache, use_cache=True)
    for ours, theirs in zip(engine._cache.layers, cache.layers):
        seen = theirs.keys.shape[2]  # a sliding layer of transformers keeps its window only
        for held, want in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            assert (held[b, :, length - seen : length] - want[0]).abs().max() < 2e-5


# -- what is refused -----------------------------------------------------------------------------------------------------


def built(kind: str, **settings):
    small = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48} | settings
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, pad_token_id=0, **small)).eval()
    with torch.no_grad():
        for one in model.parameters():
            if one.ndim > 1:
                one.normal_(0.0, 0.25)
    return model


REFUSED = {
    "bloom": ({"n_layer": 2, "n_head": 4}, "ALiBi"),
    "mpt": ({"d_model": 32, "n_layers": 2, "n_heads": 4}, "ALiBi"),
    "falcon": ({"alibi": True}, "ALiBi"),
    "mamba": ({}, "recurrent state"),
    "mamba2": ({"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8}, "recurrent state"),
    "recurrent_gemma": ({"lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3}, "recurrent state"),
    "qwen3_next": ({"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
                    "num_hidden_layers": 4, "head_dim": 8, "num_key_value_heads": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
                    "linear_key_head_dim": 8, "linear_value_head_dim": 8}, "rolled back"),
    "jamba": ({"num_key_value_heads": 2, "num_experts": 2, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
               "use_mamba_kernels": False}, "rolled back|recurrent"),
    "rwkv": ({"attention_hidden_size": 32}, "recurrent state"),
    "gpt_neo": ({"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4}, "mask"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_masked_or_rolled_back_is_refused_by_name(kind):
    settings, why = REFUSED[kind]
    model = built(kind, **settings)
    with pytest.raises(UnsupportedModel, match=why) as caught:
        TransformersModel(model)
    assert type(model).__name__ in str(caught.value) or type(model.config).__name__ in str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "roberta", "openai-gpt"])
def test_an_unknown_architecture_that_does_not_obey_is_found_out(kind):
    """An encoder in disguise, and one that has no cache: nothing in their configuration says so."""
    names = {"n_embd": 32, "n_layer": 2, "n_head": 4, "max_position_embeddings": 96}
    with pytest.raises(UnsupportedModel, match="trees of draft tokens"):
        TransformersModel(built(kind, **names))


def test_an_unknown_architecture_that_obeys_is_probed_once(kit):
    model = built("olmo", num_key_value_heads=4)
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    engine = TransformersModel(model)
    probed = len(calls)
    assert probed > 1 and engine.forwards == 0
    TransformersModel(model)
    assert len(calls) == probed
    handle.remove()
    rows, tokens = kit.prompts(9, 17), kit.prompts(7, 7, seed=5)
    check(kit, model, engine.score(kit.context_of(rows), kit.draft_of(tokens, [TREE] * 2)).logits, rows, tokens, [TREE] * 2)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_embeddings_that_change_with_length_are_used_up_to_their_original_length(kit, kind):
    """Padding must not count as length, and beyond the original length cached keys would be of other frequencies."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 48}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4} if kind == "longrope" else {}
    model = kit.tiny("llama", rope_parameters=rope)
    engine, rows = TransformersModel(model), kit.prompts(9, 40)
    assert engine.max_length == 48
    check(kit, model, engine.score(kit.context_of(rows, max_new_tokens=8), Draft.empty(2)).logits, rows)


def test_an_encoder_decoder_is_refused(kit):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=61, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        TransformersModel(T5ForConditionalGeneration(config).eval())


def test_attention_without_masks_is_refused(kit):
    model = kit.tiny("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="flash_attention_2"):
        TransformersModel(model)


def test_a_model_in_training_mode_is_refused(kit):
    with pytest.raises(UnsupportedModel, match="training mode"):
        TransformersModel(kit.tiny("llama").train())


def test_a_text_longer_than_the_positions_is_refused_before_the_model_runs(kit):
    engine = TransformersModel(kit.tiny("gpt2"))
    context = kit.context_of(kit.prompts(20)).extended([kit.prompts(kit.POSITIONS)[0]])
    with pytest.raises(BadPrompt, match=str(kit.POSITIONS)):
        engine.score(context, Draft.empty(1))
    assert engine.forwards == 0
