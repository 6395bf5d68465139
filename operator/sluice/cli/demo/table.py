"""How traffic and workers move, while they do: a live table on a terminal, lines elsewhere."""

import asyncio

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from sluice.cli.demo.fleet import Fleet
from sluice.cli.demo.load import Load

PLAIN_LINE_EVERY = 5.0
RECENT_SECONDS = 10.0


async def show_progress(fleet: Fleet, load: Load) -> None:
    """Show how traffic and workers move: a live table on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        while True:
            console.print(_line(fleet, load), highlight=False, soft_wrap=True)
            await asyncio.sleep(PLAIN_LINE_EVERY)
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while True:
            live.update(Group(show_variants(fleet, load), _list_nodes(fleet)))
            await asyncio.sleep(0.5)


def _line(fleet: Fleet, load: Load) -> str:
    recent = load.recent(RECENT_SECONDS)
    failed = sum(bool(one.error) for one in load.outcomes)
    view = fleet.view
    return (
        f"  {load.rate:.1f}/s | {view.placement} | attainment {view.attainment or '-'}"
        f" | ${view.cost}/h | {view.reason}"
        f" | sent {len(load.outcomes)} (last {RECENT_SECONDS:.0f} s {len(recent)}), failed {failed}"
    )


def show_variants(fleet: Fleet, load: Load) -> Table:
    """Return a row a variant: its workers, its share, and the requests of the last seconds."""
    table = Table(title=f"{_line(fleet, load).strip()}\n(emulated devices)", title_justify="left")
    for column in ("accelerator class", "wanted", "serving", "share", "requests", "slowest TTFT"):
        table.add_column(column)
    recent = load.recent(RECENT_SECONDS)
    for name, variant in fleet.view.variants.items():
        mine = [one for one in recent if one.accelerator == name]
        slowest = max((one.ttft for one in mine if one.ttft is not None), default=None)
        table.add_row(
            name,
            str(variant.wanted),
            str(variant.serving),
            f"{variant.share} %",
            f"{len(mine)} in {RECENT_SECONDS:.0f} s",
            "-" if slowest is None else f"{slowest:.1f} s",
        )
    return table


def _list_nodes(fleet: Fleet) -> Table:
    table = Table()
    for column in ("node", "quarantine", "workers"):
        table.add_column(column)
    for node in sorted({*fleet.workers, *fleet.tainted}):
        mark = "tainted" if node in fleet.tainted else ""
        table.add_row(node, mark, ", ".join(fleet.workers.get(node, ())))
    return table
