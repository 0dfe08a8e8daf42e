"""`anydraft methods`: what there is, asked of the folders."""

import json
from typing import Annotated

import typer

from anydraft.core import discover


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, with every header field.")] = False):
    """List the rules, drafters, controls and schedules, with what each claims."""
    found = [method for folder in discover.REQUIRED for method in discover.methods(folder)]
    if as_json:
        listed = [{"folder": m.folder, "name": m.name, "title": m.title, "claim": m.claim, "fields": m.fields} for m in found]
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading, wraps in (("Folder", False), ("Method", False), ("What it does", True), ("Source", True)):
        table.add_column(heading, no_wrap=not wraps, overflow="fold")
    for method in found:
        table.add_row(method.folder, method.name, method.claim, method.fields["Source"])
    Console(markup=False).print(table)  # a claim may hold brackets: f[B, V]
