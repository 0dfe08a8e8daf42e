"""llama.cpp through `llama-cpp-python`: plain, and with its prompt lookup; an optional extra, on a GGUF file beside the target.

The file is not made here: convert the target with llama.cpp's `convert_hf_to_gguf.py` and put `model.gguf` into its folder, or name it
with ANYDRAFT_GGUF. Its arithmetic is another one, so its ids may part from ours at near ties; the report shows how often.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from anydraft.bench.measure import Job, Outcome, Stopwatch
from anydraft.bench.pairs import Pair, Settings


class LlamaCpp:
    """One way of `Llama.generate`.

    Args:
        model: a loaded `llama_cpp.Llama`. ends: ids that end a text.
    """

    system = "llama.cpp"

    def __init__(self, name: str, model: Any, ends: set[int]):
        self.name, self.model, self.ends = f"llama.cpp {name}", model, ends

    def run(self, job: Job) -> Outcome:
        """See `Contender.run`. Prompts of a batch run one after the other: this binding has no batch."""
        texts, first = [], None
        with Stopwatch() as watch:
            for prompt in job.prompts:
                begun, ids = time.perf_counter(), []
                self.model.reset()
                for token in self.model.generate(prompt, temp=job.temperature, top_p=job.top_p, top_k=0, min_p=0.0, repeat_penalty=1.0):
                    if first is None:
                        first = time.perf_counter() - begun
                    ids.append(int(token))
                    if len(ids) == job.max_new_tokens or token in self.ends:
                        break
                texts.append(ids)
        return Outcome(texts, watch.seconds, first)


def contenders(pair: Pair, settings: Settings) -> list[LlamaCpp]:
    """Plain and prompt lookup.

    Raises:
        Missing: the library or the file is not there.
    """
    from anydraft.bench.peers import Missing

    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Missing("llama-cpp-python is not installed (pip install llama-cpp-python)") from error
    path = Path(os.environ.get("ANYDRAFT_GGUF") or Path(pair.where[0]) / "model.gguf")
    if not path.is_file():
        raise Missing(f"there is no {path.name} of the target (llama.cpp's convert_hf_to_gguf.py makes one; ANYDRAFT_GGUF names it)")
    if settings.batch_size > 1:
        raise Missing("this binding has no batch")
    import torch

    ends = {int(pair.tokenizer.eos_token_id)} if pair.tokenizer.eos_token_id is not None else set()
    shared = {"model_path": str(path), "n_ctx": 0, "logits_all": True, "verbose": False, "n_threads": torch.get_num_threads()}
    made = [LlamaCpp("plain", llama_cpp.Llama(**{**shared, "logits_all": False}), ends)]
    for k in settings.lookaheads:
        made.append(LlamaCpp(f"prompt lookup k={k}", llama_cpp.Llama(**shared, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=k)), ends))
    return made
