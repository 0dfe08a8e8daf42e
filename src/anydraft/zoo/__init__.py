"""Small bundled models for tests, demonstrations and benchmarks, and prompts that they were not trained on.

`target` writes Python; `draft-bpe` drafts for it in the same vocabulary, `draft-spm` in another one. recipe.py made them,
LICENCE.md says from what. Nothing here imports torch.
"""

import json
from pathlib import Path

from anydraft.core.errors import BadModel, nearest

FOLDER = Path(__file__).resolve().parent
MODELS = ("target", "draft-bpe", "draft-spm")
DEMO = "asyncio.events-4"  # stops where a method's body begins, after four methods much like it


def path(name: str) -> Path:
    """The folder of a bundled model, as `from_pretrained` takes it: bfloat16 safetensors and its tokenizer.

    Raises:
        BadModel: no bundled model has this name; the message names those there are.

    >>> path("target").name
    'target'
    >>> path("draft")
    Traceback (most recent call last):
    anydraft.core.errors.BadModel: no bundled model is named 'draft' (expected: one of target, draft-bpe, draft-spm). ...
    """
    if name not in MODELS:
        close = nearest(name, MODELS)
        raise BadModel(f"no bundled model is named {name!r}", expected="one of " + ", ".join(MODELS),
                       next_step=f"Did you mean {close!r}?" if close else "A model of your own is given by its path, without the zoo")
    return FOLDER / name


def prompts() -> list[dict[str, str]]:
    """Prompts cut from files that no bundled model was trained on, 40 to 400 tokens of the target each.

    Returns:
        `id`, `source` (the file's path inside the standard library) and `text` of each; any part of the list is a mixture of files.

    >>> sorted(prompts()[0])
    ['id', 'source', 'text']
    """
    return [json.loads(line) for line in (FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def demo_prompt() -> dict[str, str]:
    """The prompt of `anydraft demo`: real code that stops where a function's body begins.

    >>> demo_prompt()["text"].splitlines()[-1]
    '    def __eq__(self, other):'
    """
    return next(prompt for prompt in prompts() if prompt["id"] == DEMO)
