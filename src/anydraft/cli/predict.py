"""`anydraft predict`: what a drafter would bring, for people without the models."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def predict(
    acceptance: Annotated[float, typer.Option(help="Chance that a draft token stands if those before it did, 0 to 1.")],
    draft_cost: Annotated[float, typer.Option(help="One drafter forward over one target forward, in time.")],
    growth: Annotated[float, typer.Option(help="How much longer a target forward takes per further token, as a share.")] = 0.02,
    overhead: Annotated[float, typer.Option(help="What a step with a draft costs besides, in target forwards.")] = 0.0,
    most: Annotated[int, typer.Option(help="Longest lookahead considered.", min=1)] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
):
    """Model the speed-up of every lookahead from three numbers. Modelled, not measured."""
    from anydraft.planning.predict import predict as model

    made = model(acceptance, draft_cost, growth=growth, overhead=overhead, most=most)
    best = max(made, key=lambda p: p.speedup)
    if as_json:
        print(json.dumps({"kind": "modelled", "best": asdict(best), "lookaheads": [asdict(p) for p in made]}, indent=2))
        return
    print("lookahead  tokens/step  speed-up (modelled)")
    for p in made:
        print(f"{p.lookahead:9d}  {p.tokens_per_step:11.2f}  {p.speedup:8.2f}{'  <- best' if p is best else ''}")
    if best.lookahead == 0:
        print("Speculation does not pay: a draft token must stand more often than it costs.")
