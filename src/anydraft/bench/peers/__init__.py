"""What others offer, as contenders. One system per file; a file whose system is not installed says so when it is asked.

Each file defines `contenders(pair, settings) -> list[Contender]` and raises `Missing` with a reason where it cannot take part.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from anydraft.bench.measure import described
from anydraft.bench.pairs import Pair, Settings
from anydraft.bench.random_weights import is_random
from anydraft.core import discover
from anydraft.core.errors import BadOption, nearest


class Missing(Exception):
    """A peer that cannot take part here, and why: a row of the report, not an error."""


def names() -> list[str]:
    """The systems there is a file for.

    >>> "transformers" in names()
    True
    """
    return discover.names(Path(__file__).parent)


def contenders(system: str, pair: Pair, settings: Settings) -> tuple[list, str | None]:
    """(contenders, reason why there are none).

    Blocks of one pair that differ in temperature only share contenders, which hold models of their own: a job says its temperature itself.

    Raises:
        BadOption: no file is named after this system.
    """
    if system not in names():
        close = nearest(system, names())
        raise BadOption(f"no peer is named {system!r}", expected="of " + ", ".join(names()), next_step=f"Did you mean {close!r}?" if close else None)
    if system != "transformers" and any(map(is_random, pair.where)):
        return [], "it reads a model's files, and random weights have none"
    module = importlib.import_module(f"{__name__}.{system}")
    key = (system, settings.lookaheads, settings.batch_size, settings.temperature > 0, settings.dtype, settings.device)
    try:
        if key not in pair.kept:
            pair.kept[key] = module.contenders(pair, settings)
        return list(pair.kept[key]), None
    except Missing as reason:
        return [], str(reason)
    except Exception as error:  # a peer that cannot even be made is a row of the report, not the end of the benchmark
        return [], described(error)
