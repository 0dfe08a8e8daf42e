"""Tiny Llama models that have learnt a few lines by heart, one for each family of tokenizers: drafts are then sometimes right."""

import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, LENGTH, BATCH = 60, 48, 4


def learnt(tokenizer, corpus, seed=0):
    """A model in float64, so that no two logits tie; its width is the tokenizer's."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.cat([torch.tensor(tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64) for text in corpus])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        at = torch.randint(0, max(1, len(ids) - LENGTH), (BATCH,))
        batch = torch.stack([ids[start : start + LENGTH] for start in at.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.to(torch.float64).eval()


def padded(model, like):
    """The same model with more ids than its tokenizer has: one for each id of `like`, which it says instead of that one."""
    wider = copy.deepcopy(model)
    wider.resize_token_embeddings(model.config.vocab_size + len(like), mean_resizing=False)
    with torch.no_grad():
        for table, scale in ((wider.get_input_embeddings(), 1.0), (wider.get_output_embeddings(), 1.1)):
            table.weight[-len(like) :] = table.weight[like] * scale
    return wider.eval()
