"""Masks: who sees whom, windows by position, which mask each kind of layer gets, and what no mask can help."""

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config

from anydraft.core.errors import UnsupportedModel
from anydraft.engine.attention import additive, layer_windows, longest_text, windowed, with_tree


def test_the_additive_mask_is_zero_where_allowed_and_smallest_elsewhere():
    allowed = torch.tensor([[[True, False], [True, True]]])
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        mask = additive(allowed, dtype)
        assert mask.shape == (1, 1, 2, 2) and mask.dtype == dtype
        assert torch.equal(mask[:, 0] == 0, allowed) and mask.min() == torch.finfo(dtype).min


def test_a_window_counts_positions_and_not_slots():
    """A window of 3: a query at position 5 sees 3, 4 and 5, wherever they stand."""
    key = torch.tensor([[0, 5, 3, 4, 2]])
    seen = windowed(torch.ones(1, 1, 5, dtype=torch.bool), torch.tensor([[5]]), key, 3)
    assert seen[0, 0].tolist() == [False, True, True, True, False]


def test_a_node_sees_its_context_its_ancestors_and_itself():
    parent, base = [-1, -1, 0, 2], torch.tensor([[2]])
    above = torch.zeros(1, 4, 4, dtype=torch.bool)
    for n, p in enumerate(parent):
        above[0, n, n] = True
        if p >= 0:
            above[0, n] |= above[0, p]
    slots = torch.tensor([[1, 2, 3, 4, 5]])  # the root and four nodes
    place = torch.arange(8)
    allowed, position, key = with_tree(place <= slots[:, :, None], slots, place.expand(1, -1), base, above)
    seen = [set(row.nonzero().flatten().tolist()) for row in allowed[0]]
    assert seen == [{0, 1}, {0, 1, 2}, {0, 1, 3}, {0, 1, 2, 4}, {0, 1, 2, 4, 5}]
    assert position[0].tolist() == [1, 2, 2, 3, 4]
    assert key[0, :6].tolist() == [0, 1, 2, 2, 3, 4]


@pytest.mark.parametrize(
    "config, windows",
    [
        (LlamaConfig(), {"full_attention": None}),
        (MistralConfig(sliding_window=None), {"full_attention": None}),
        (MistralConfig(sliding_window=8), {"sliding_attention": 8}),
        (Qwen2Config(sliding_window=8), {"full_attention": None}),
        (Qwen2Config(sliding_window=8, use_sliding_window=True, max_window_layers=2), {"full_attention": None, "sliding_attention": 8}),
        (Gemma3TextConfig(sliding_window=8, num_hidden_layers=6), {"sliding_attention": 8, "full_attention": None}),
    ],
    ids=["llama", "mistral", "mistral_sliding", "qwen2_off", "qwen2_on", "gemma3"],
)
def test_which_masks_a_model_wants(config, windows):
    assert layer_windows(config) == windows


def test_a_layer_that_keeps_other_state_is_named():
    config = LlamaConfig(num_hidden_layers=2)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        layer_windows(config)


@pytest.mark.parametrize(
    "config, longest",
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (LlamaConfig(max_position_embeddings=512, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), 512),
        (
            Phi3Config(
                max_position_embeddings=512,
                original_max_position_embeddings=128,
                rope_parameters={
                    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [1.0] * 48,
                    "original_max_position_embeddings": 128,
                },
            ),
            128,
        ),
    ],
    ids=["plain", "linear", "longrope"],
)  # fmt: skip
def test_how_long_a_text_may_be(config, longest):
    assert longest_text(config) == longest
