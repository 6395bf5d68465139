"""When a fault is there: from a time on, until a time, and by chance; a pure function of the clock.

With a probability, time from `since` on is cut into periods, and a draw from the fault's seed says
for each whether the fault is there. So the same fault and seed give the same history, whoever looks
and however often, and also to an agent that starts in the middle of it. What stays once it came
(`STICKY`) comes with the first period that is drawn, and is there until it is repaired.
"""

import math
from dataclasses import replace
from typing import Final

from sluice_accel.chance import draw
from sluice_accel.faults import STICKY, DeviceState, Fault, FaultKind

_LOOK_BACK: Final = 100
"""Periods in a row after which a spell counts as that long and no longer."""


def find_spell(fault: Fault, now: float) -> Fault | None:
    """Return the fault as it is there now, None while it is not.

    Its `since` is when it came this time; each crash is one of its own.

    Args:
        fault: as it was asked for.
        now: seconds since 1970.
    """
    if now < fault.since or (fault.until is not None and now >= fault.until):
        return None
    if fault.probability == 1:
        return fault
    period = int((now - fault.since) / fault.period)
    if fault.kind in STICKY:
        came = _find_first(fault)
        return None if period < came else _begin(fault, int(came))
    if not _is_drawn(fault, period):
        return None
    begun = period
    if fault.kind is not FaultKind.CRASH:
        while begun > 0 and period - begun < _LOOK_BACK and _is_drawn(fault, begun - 1):
            begun -= 1
    return _begin(fault, begun)


def show_state(state: DeviceState, now: float) -> DeviceState:
    """Return the state with those of its faults that are there now."""
    spells = (find_spell(fault, now) for fault in state.faults)
    return replace(state, faults=tuple(spell for spell in spells if spell is not None))


def _begin(fault: Fault, period: int) -> Fault:
    return replace(fault, since=fault.since + period * fault.period)


def _is_drawn(fault: Fault, period: int) -> bool:
    return draw(fault.seed, period) < fault.probability


def _find_first(fault: Fault) -> float:
    """Return the first period that is drawn, in one draw (geometric distribution); may be inf."""
    first = math.log1p(-draw(fault.seed, 0)) / math.log1p(-fault.probability)
    return first if math.isinf(first) else math.floor(first)
