"""llama.cpp through `llama-cpp-python`: plain, and with its prompt lookup. Optional: `pip install 'anydraft[llama_cpp]'`, which builds it.

It reads a GGUF file: that of ANYDRAFT_GGUF, or `model.gguf` in the target's folder, or else one that `gguf_file` writes for as long as
the benchmark runs. Weights and the cache are float32 where the target is. Its arithmetic is another one all the same, so its ids may part from ours
at near ties; the report shows how often. The binding offers no drafter model and no batch.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from anydraft.bench import gguf_file
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
        """See `Contender.run`."""
        texts, first = [], None
        options = {"temp": job.temperature, "top_p": job.top_p, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
        with Stopwatch() as watch:
            begun = time.perf_counter()
            for n, prompt in enumerate(job.prompts):
                ids: list[int] = []
                self.model.reset()
                self.model.set_seed(job.seed + n)
                for token in self.model.generate(prompt, **options):
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
        Missing: the library is not there, or the settings are not for it. BadModel: the target cannot be written as GGUF here.
    """
    from anydraft.bench.peers import Missing

    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Missing("llama-cpp-python is not installed (pip install 'anydraft[llama_cpp]')") from error
    if settings.batch_size > 1:
        raise Missing("llama-cpp-python has no batch")
    if pair.target.device.type != "cpu":
        raise Missing("llama.cpp is compared on the CPU only")
    import torch

    path, kind = _file(pair)
    cache = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32} if kind == "f32" else {}
    threads = torch.get_num_threads()
    shared = {"model_path": str(path), "n_ctx": 0, "verbose": False, "n_threads": threads, "n_threads_batch": threads, **cache}
    ends = set(pair.ends)
    made = [LlamaCpp(f"plain ({kind})", llama_cpp.Llama(**shared), ends)]
    for k in settings.lookaheads:
        copying = LlamaPromptLookupDecoding(num_pred_tokens=k)
        made.append(LlamaCpp(f"prompt lookup k={k} ({kind})", llama_cpp.Llama(**shared, logits_all=True, draft_model=copying), ends))
    return made


def _file(pair: Pair) -> tuple[Path, str]:
    """The GGUF file of the target, and what its row says about precision."""
    from anydraft.bench.peers import Missing

    if named := os.environ.get("ANYDRAFT_GGUF"):
        if not Path(named).is_file():
            raise Missing("ANYDRAFT_GGUF names no file")
        return Path(named), Path(named).name
    if (beside := Path(pair.where[0]) / "model.gguf").is_file():
        return beside, beside.name
    kind = "f32" if str(pair.target.dtype) == "torch.float32" else "f16"
    return gguf_file.made_for(pair, "target", kind), kind
