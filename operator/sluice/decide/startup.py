"""How long a start may take before it counts as overdue."""

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide import limits


def expected_startup(accelerator: AcceleratorClassSpec) -> float:
    """Return the seconds within which a worker of the class should serve."""
    emulation = accelerator.emulation
    if emulation is None:
        return limits.STARTUP_UNKNOWN
    compressed = emulation.startup / emulation.time_compression
    return compressed * limits.STARTUP_FACTOR + limits.STARTUP_GRACE
