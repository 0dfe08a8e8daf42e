"""OpenVINO GenAI: plain, prompt lookup, and with a drafter of the same vocabulary. Optional: `pip install 'anydraft[openvino]'`.

It reads what `optimum-cli export openvino` made, if ANYDRAFT_OPENVINO names the target's folder and ANYDRAFT_OPENVINO_DRAFT the drafter's. Otherwise
`gguf_file` writes both models, and OpenVINO reads those for as long as the benchmark runs: weights in float16, because it reads no float32
from GGUF, arithmetic and cache in float32. Weights that were bfloat16 in the checkpoint, as the bundled ones, lose next to nothing by that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from anydraft.bench import gguf_file
from anydraft.bench.measure import Job, Outcome, Stopwatch
from anydraft.bench.pairs import Pair, Settings

LOOKUP_NGRAM = 3  # `max_ngram_size`, the length that OpenVINO's own samples use


class OpenVino:
    """`LLMPipeline.generate`, fed with ids.

    Args:
        pipeline: a loaded `openvino_genai.LLMPipeline`. ends: ids that end a text. settings: of its `GenerationConfig`.
    """

    system = "openvino"

    def __init__(self, name: str, pipeline: Any, ends: set[int], **settings: Any):
        self.name, self.pipeline, self.ends, self.settings = f"openvino {name}", pipeline, ends, settings

    def run(self, job: Job) -> Outcome:
        """See `Contender.run`. Prompts of a batch run one after the other: ids of several lengths cannot be given together."""
        import numpy as np
        import openvino  # pyright: ignore[reportMissingImports]
        import openvino_genai  # pyright: ignore[reportMissingImports]

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.apply_chat_template = job.max_new_tokens, job.temperature > 0, False
        if self.ends:
            config.eos_token_id, config.stop_token_ids = min(self.ends), self.ends
        if job.temperature:
            config.temperature, config.top_p, config.rng_seed = job.temperature, job.top_p, job.seed
        for name, value in self.settings.items():
            setattr(config, name, value)
        texts, first = [], None
        with Stopwatch() as watch:
            for prompt in job.prompts:
                ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
                mask = openvino.Tensor(np.ones((1, len(prompt)), dtype=np.int64))
                made = self.pipeline.generate(openvino_genai.TokenizedInputs(ids, mask), config)
                texts.append([int(token) for token in made.tokens[0]])
                first = made.perf_metrics.get_ttft().mean / 1000 if first is None else first
        return Outcome(texts, watch.seconds, first)


def contenders(pair: Pair, settings: Settings) -> list[OpenVino]:
    """Plain, prompt lookup, and with a drafter of the same vocabulary where there is one.

    Raises:
        Missing: the library is not there, or the settings are not for it. BadModel: the target cannot be written as GGUF here.
    """
    from anydraft.bench.peers import Missing

    try:
        import openvino_genai  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Missing("openvino-genai is not installed (pip install 'anydraft[openvino]')") from error
    if settings.batch_size > 1:
        raise Missing("OpenVINO GenAI is compared one prompt at a time")
    if pair.target.device.type != "cpu":
        raise Missing("OpenVINO GenAI is compared on the CPU only")
    import torch

    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    options = {**exact, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    target, drafter, kind = _models(pair, openvino_genai)
    ends = set(pair.ends)
    make = openvino_genai.LLMPipeline
    made = [OpenVino(f"plain ({kind})", make(target, "CPU", **options), ends)]
    for k in settings.lookaheads:
        copying = make(target, "CPU", prompt_lookup=True, **options)
        made.append(OpenVino(f"prompt lookup k={k} ({kind})", copying, ends, num_assistant_tokens=k, max_ngram_size=LOOKUP_NGRAM))
        if drafter is not None:
            pipeline = make(target, "CPU", draft_model=openvino_genai.draft_model(drafter, "CPU", **options), **options)
            made.append(OpenVino(f"assisted k={k} ({kind})", pipeline, ends, num_assistant_tokens=k))
    return made


def _models(pair: Pair, library: Any) -> tuple[str, str | None, str]:
    """Where target and drafter are, and what their rows say about precision. A drafter of another vocabulary is none."""
    from anydraft.bench.peers import Missing

    exported = [os.environ.get(name) or None for name in ("ANYDRAFT_OPENVINO", "ANYDRAFT_OPENVINO_DRAFT")]
    for name, folder in zip(("ANYDRAFT_OPENVINO", "ANYDRAFT_OPENVINO_DRAFT"), exported):
        if folder is not None and not (Path(folder) / "openvino_model.xml").is_file():
            raise Missing(f"{name} names no folder with an openvino_model.xml (optimum-cli export openvino makes one)")
    if exported[0] is not None:
        return exported[0], exported[1] if pair.same_vocabulary else None, "as exported"
    target = gguf_file.made_for(pair, "target", "f16")
    if not pair.same_vocabulary:
        return str(target), None, "f16 weights"
    drafter = gguf_file.made_for(pair, "drafter", "f16")
    if not (drafter.parent / "openvino_model.xml").exists():  # a drafter must be in OpenVINO's own format, which a pipeline writes on request
        library.LLMPipeline(str(drafter), "CPU", enable_save_ov_model=True)
    return str(target), str(drafter.parent), "f16 weights"

