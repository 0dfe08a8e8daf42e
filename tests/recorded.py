"""A tiny model and texts that grow in a fixed way: what recordings and graphs of forwards are compared on."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from anydraft.core.records import Context, Draft, Request


def tiny(**changes):
    torch.manual_seed(0)
    config = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "attn_implementation": "sdpa"}
    return LlamaForCausalLM(LlamaConfig(**{**config, **changes})).eval()


def steps(engine, count=60, width=1):
    """Logits of `count` scores of a growing text, each of the root and of width - 1 draft nodes, with how it grows fixed."""
    context = Context.start([Request(prompt=torch.arange(1, 40), max_new_tokens=400)])
    made = []
    for n in range(count):
        tokens = (torch.arange(width - 1) * 7 + n)[None] % 61
        place = torch.arange(width - 1)[None]
        draft = Draft(tokens=tokens, parent=place - 1, live=torch.ones_like(tokens, dtype=torch.bool), kind=torch.zeros_like(tokens),
                      index=torch.full_like(tokens, -1), levels=width - 1) if width > 1 else Draft.empty(1)
        made.append(engine.score(context, draft).logits.clone())
        context = context.extended([[(5 * n + 3) % 61]])
    return made


def ragged(engine, count=40):
    """Logits of a growing batch whose rows have different lengths and drift apart; some rows get no new token in a step."""
    context = Context.start([Request(prompt=torch.arange(1, 30 + 9 * b), max_new_tokens=400) for b in range(3)])
    made = []
    for n in range(count):
        made.append(engine.score(context, Draft.empty(3)).logits.clone())
        context = context.extended([[(5 * n + b) % 61] * (1 + (n + b) % 3) for b in range(3)])
        if n == 25:
            context = context.keep_rows([0, 2])
            context = context.join(Context.start([Request(prompt=torch.arange(2, 20), max_new_tokens=400)], [7]))
    return made
