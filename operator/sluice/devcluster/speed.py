"""How many emulated devices this machine can carry: what they promise against what it computes.

Emulated devices compute on this machine's processors, whatever they pretend to be. While a cluster
starts, the engine measures beside it how long a step of a full batch takes here, in the numerics
that the devices' profiles stand for; what the devices of the cluster would make of the same batch
follows from their profiles.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sluice.devcluster.shape import ClusterShape, NodePlan
from sluice.model.serving import MAX_NUM_SEQS
from sluice_accel.memory import choose_devices
from sluice_accel.nominal import NOMINAL_MODELS, NominalModel
from sluice_accel.profiles import PROFILES
from sluice_accel.rounding import ROUNDING
from sluice_accel.timing import StepBatch, step_time

NOMINAL: Final = "llama-3.3-70b"
"""Model that the devices are reckoned with: the demo's."""
CONTEXT: Final = 4096
"""Nominal tokens of each sequence (assumed)."""
SHARE: Final = 0.8
"""Of the processors that workers may take; control plane, gateway and clients have the rest
(assumed)."""
_PATIENCE_SECONDS = 1.0


class SpeedProbe:
    """The measurement, in a process of its own that runs beside the start of a cluster.

    Use it as a context: what has not been measured at its end never will be.
    """

    def __init__(self, models: Path | None, numerics: Sequence[str]) -> None:
        """Begin to measure the compact model in that directory; None measures nothing.

        Args:
            models: directory of the compact model's.
            numerics: what to compute in, one after the other; none measures nothing.
        """
        self._process: subprocess.Popen[str] | None = None
        if models is None or not numerics:
            return
        model = str(models / "compact")
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "sluice_worker.speed", "--model", model),
                    f"--sequences={MAX_NUM_SEQS}",
                    *(f"--numerics={name}" for name in numerics),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def finish(self) -> dict[str, float] | None:
        """Return the processor seconds of a step at full batch by numerics; None if not measured.

        The start of the cluster took long enough; what still runs a second later is given up.
        """
        if self._process is None:
            return None
        try:
            told, _ = self._process.communicate(timeout=_PATIENCE_SECONDS)
            return {name: float(each) for name, each in json.loads(told)["stepSeconds"].items()}
        except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Promise:
    """What the workers on one kind of node promise together, each at full batch.

    Attributes:
        kind: of node.
        profile: of its devices.
        numerics: what these compute in.
        devices: of one worker.
        workers: that its nodes have devices for.
        step: seconds of one emulated step.
    """

    kind: str
    profile: str
    numerics: str
    devices: int
    workers: int
    step: float

    @property
    def rate(self) -> float:
        """Tokens/s of one worker."""
        return MAX_NUM_SEQS / self.step


def list_numerics(shape: ClusterShape) -> list[str]:
    """Return what a cluster's devices compute in, each once."""
    return list(dict.fromkeys(promise.numerics for promise in list_promises(shape)))


def list_promises(shape: ClusterShape) -> list[Promise]:
    """Return what a cluster's devices promise, by kind of node."""
    model = NOMINAL_MODELS[NOMINAL]
    kinds: dict[str, list[NodePlan]] = {}
    for plan in shape.plan_nodes():
        kinds.setdefault(plan.kind, []).append(plan)
    promises = []
    for kind, plans in kinds.items():
        if plans[0].profile is not None:
            promises.append(_reckon(kind, plans, plans[0].profile, model))
    return promises


def _reckon(kind: str, plans: Sequence[NodePlan], name: str, model: NominalModel) -> Promise:
    profile = PROFILES[name]
    devices = choose_devices(profile, model, CONTEXT) or 1
    workers = sum(int(count) // devices for plan in plans for count in plan.devices.values())
    batch = StepBatch(decode=(CONTEXT,) * MAX_NUM_SEQS)
    step = step_time(profile, model, devices, batch)
    return Promise(kind, name, ROUNDING[name], devices, workers, step)


@dataclass(frozen=True, slots=True)
class Emulation:
    """What this machine can carry of what a cluster's devices promise.

    Attributes:
        steps: processor seconds that it computes on a step of a full batch, by numerics.
        processors: that it has for this process.
    """

    steps: Mapping[str, float]
    processors: int
    promises: Sequence[Promise]

    @property
    def slowest(self) -> str:
        """The numerics in which a step takes longest."""
        return max(self.steps, key=lambda name: self.steps[name])

    @property
    def rate(self) -> float:
        """Tokens/s that it computes at full batch and slowest, with `SHARE` of its processors."""
        return self.find_rate(self.slowest)

    def find_rate(self, numerics: str) -> float:
        """Return the tokens/s that it computes in some numerics."""
        return MAX_NUM_SEQS * SHARE * self.processors / self.steps[numerics]

    @property
    def wanted(self) -> float:
        """Tokens/s that all workers promise together."""
        return sum(promise.workers * promise.rate for promise in self.promises)

    def carries(self, promise: Promise) -> int:
        """Return how many workers of a kind alone it carries at full batch without overruns."""
        if self.steps[promise.numerics] > promise.step:
            return 0
        return int(self.find_rate(promise.numerics) / promise.rate)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for programs."""
        return {
            "nominal": NOMINAL,
            "sequences": MAX_NUM_SEQS,
            "stepSeconds": {name: round(each, 6) for name, each in self.steps.items()},
            "processors": self.processors,
            "tokensPerSecond": round(self.rate),
            "wantedTokensPerSecond": round(self.wanted),
            "workers": [
                {
                    "kind": promise.kind,
                    "profile": promise.profile,
                    "numerics": promise.numerics,
                    "devices": promise.devices,
                    "stepSeconds": round(promise.step, 6),
                    "tokensPerSecond": round(promise.rate),
                    "has": promise.workers,
                    "carries": self.carries(promise),
                }
                for promise in self.promises
            ],
        }

    def describe(self) -> str:
        """Return it in sentences."""
        steps = ", ".join(f"{1e3 * each:.1f} ms in {name}" for name, each in self.steps.items())
        told = (
            f"This machine can emulate {self.rate:,.0f} tokens/s: a step of {MAX_NUM_SEQS}"
            f" sequences computes in {steps}, and workers may take {SHARE:.0%} of"
            f" {self.processors} processors."
        )
        for one in self.promises:
            told += (
                f"\n  {one.workers} workers of {one.devices} {one.profile} promise"
                f" {one.rate:,.0f} tokens/s each ({NOMINAL}, {1e3 * one.step:.1f} ms a step);"
                f" {self.carries(one)} would run at full batch before steps overrun"
            )
        if self.promises and self.wanted > self.rate:
            told += (
                f"\n  All at full batch together ({self.wanted:,.0f} tokens/s) they overrun:"
                " sluice_worker_steps_overrun_total counts such steps."
            )
        return told


def find_emulation(steps: Mapping[str, float] | None, shape: ClusterShape) -> Emulation | None:
    """Return what this machine can carry of a cluster, None if its speed was not measured."""
    if not steps:
        return None
    return Emulation(steps, len(os.sched_getaffinity(0)), list_promises(shape))
