"""Thresholds of the planner that are not in the API, each with its reason.

The unit is seconds unless the name says otherwise.
"""

from typing import Final

QUANTILE: Final = 0.95
"""Percentile of TTFT and TPOT that is held against the SLO."""

MIN_SAMPLES: Final = 5
"""Requests a window must hold before a percentile of it means anything."""

LEASE_STALE: Final = 25.0
"""Node Leases are renewed every 10 s: two renewals and a half missed speak against the node."""

STUCK_MISSES: Final = 1.5
"""Misses that a worker's own word that it is stuck counts for: two in a row do where three do.

Its watchdog has looked twice before it says so; silence may as well be overload, ours or its own.
"""
WEIGHT_FAILED_REQUESTS: Final = 0.7
"""Of requests that failed in a row: Failed together with one missed probe of three."""
GATEWAY_MISSES: Final = 2
WEIGHT_GATEWAY_PROBES: Final = 0.4
"""Of probes that a gateway misses as we do: Failed with two misses of our own instead of three."""
SILENT_ROUNDS: Final = 3
WEIGHT_SILENCE: Final = 0.3
"""Of known answers that time out: Failed together with three requests that failed in a row."""
WEIGHT_OUTLIER: Final = 0.3
"""Of a worker slower than its siblings: Suspect, never Failed by that and one missed probe."""
OUTLIER_FACTOR: Final = 3.0
"""Times its siblings' median time a token; uneven batches alone make a factor of up to two."""

PROOF_ROUNDS: Final = 3
"""Rounds of known answers, all right, that prove a device."""
PROOF_PATIENCE: Final = 60.0
"""Time for those rounds once a probation pod is ready; a device that hangs gives none."""
GATE_SLOWER: Final = 1.5
"""A ramp's gate: TTFT and time per token past the SLO and this much past the others' fail it."""
GATE_ERRORS: Final = 0.02
"""A ramp's gate: share of attempts that may end in an error or a timeout."""
GATE_PATIENCE: Final = 3.0
"""Dwells for which a step waits for requests while the pool has some."""

PARITY_AUDITS: Final = 5
PARITY_TOKENS: Final = 100
"""Answers that must have been compared, and tokens judged in them, before their agreement says
anything: at 100 tokens three that differ are at the default bound, where healthy devices have none
or one."""

FLAP_WINDOW: Final = 3600.0
"""A node that fails again within this time after it last failed has flapped."""

RELAPSE_AFTER: Final = 5.0
"""A node that is out and looked good for so long has failed again when it no longer does."""

HELD_AFTER: Final = 15.0
"""A Failed worker that is there so long after its node was marked was held back, not missed."""

LATCHED_ASIDE: Final = 3600.0
"""A latched node counts in its class's breaker for this long, unless a hand took it out."""

STARTUP_FACTOR: Final = 1.5
STARTUP_GRACE: Final = 20.0
"""A start is overdue after factor x expected start-up + grace (scheduling, probes)."""
STARTUP_UNKNOWN: Final = 300.0
"""Expected start-up of a class that does not say (llm-d reports 62 to 139 s on H100)."""

UNSCHEDULABLE_AFTER: Final = 10.0
"""A pod without a node for this long does not count as starting."""

CORRECTION_FLOOR: Final = 0.5
CORRECTION_CEILING: Final = 2.0
"""Bounds of the factor between reckoned and learnt capacity."""
CORRECTION_STEP: Final = 0.85
CORRECTION_EVERY: Final = 15.0
"""A variant over its SLO loses 15 % of its reckoned capacity, at most once in this time."""
CORRECTION_RECOVERY: Final = 300.0
"""Time in which a correction of 0.5 returns to 1 while the SLO is kept."""

UTILISATION_FLOOR: Final = 0.4
UTILISATION_CEILING: Final = 0.85
"""Bounds on the share of its saturated rate that a worker is reckoned to sustain in the SLO."""

DOWN_UTILISATION: Final = 0.8
"""Scale down only if the remaining workers stay within this share of their capacity."""

DEAD_BAND: Final = 0.10
"""Demand within +-10 % of what a count carries, and shares within 10 points, move nothing."""

BACKLOG_DRAIN: Final = 15.0
"""Requests that wait in the gateways are to be worked off in this time."""

DEFAULT_PROMPT_TOKENS: Final = 64.0
DEFAULT_OUTPUT_TOKENS: Final = 32.0
"""Mean lengths (real tokens) reckoned with until any were observed."""

DECISIONS_KEPT: Final = 10
