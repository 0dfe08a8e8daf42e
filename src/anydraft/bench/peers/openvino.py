"""OpenVINO GenAI: plain, and with a drafter of the same vocabulary; an optional extra, on exported folders.

The folders are not made here: `optimum-cli export openvino` makes them; ANYDRAFT_OPENVINO names the target's and
ANYDRAFT_OPENVINO_DRAFT the drafter's.
"""

from __future__ import annotations

import os
from typing import Any

from anydraft.bench.measure import Job, Outcome, Stopwatch
from anydraft.bench.pairs import Pair, Settings


class OpenVino:
    """`LLMPipeline.generate`, fed with ids.

    Args:
        pipeline: a loaded `openvino_genai.LLMPipeline`. k: its `num_assistant_tokens`; None without a drafter.
    """

    system = "openvino"

    def __init__(self, name: str, pipeline: Any, k: int | None = None):
        self.name, self.pipeline, self.k = f"openvino {name}", pipeline, k

    def run(self, job: Job) -> Outcome:
        """See `Contender.run`."""
        import numpy as np
        import openvino  # pyright: ignore[reportMissingImports]
        import openvino_genai  # pyright: ignore[reportMissingImports]

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample = job.max_new_tokens, job.temperature > 0
        if job.temperature:
            config.temperature, config.top_p, config.rng_seed = job.temperature, job.top_p, job.seed
        if self.k is not None:
            config.num_assistant_tokens = self.k
        texts = []
        with Stopwatch() as watch:
            for prompt in job.prompts:
                ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
                mask = openvino.Tensor(np.ones((1, len(prompt)), dtype=np.int64))
                texts.append(list(self.pipeline.generate(openvino_genai.TokenizedInputs(ids, mask), config).tokens[0]))
        return Outcome(texts, watch.seconds)


def contenders(pair: Pair, settings: Settings) -> list[OpenVino]:
    """Plain, and with a drafter if its exported folder is named.

    Raises:
        Missing: the library or the exported target is not there.
    """
    from anydraft.bench.peers import Missing

    try:
        import openvino_genai  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Missing("openvino-genai is not installed (pip install openvino-genai)") from error
    target, drafter = os.environ.get("ANYDRAFT_OPENVINO"), os.environ.get("ANYDRAFT_OPENVINO_DRAFT")
    if not target:
        raise Missing("no exported target (optimum-cli export openvino makes one; ANYDRAFT_OPENVINO names its folder)")
    made = [OpenVino("plain", openvino_genai.LLMPipeline(target, "CPU"))]
    if drafter and pair.same_vocabulary:
        assistant = openvino_genai.draft_model(drafter, "CPU")
        made += [OpenVino(f"assisted k={k}", openvino_genai.LLMPipeline(target, "CPU", draft_model=assistant), k) for k in settings.lookaheads]
    return made
