"""What the starter tells the supervisor, and the events that come back.

One JSON line down the supervisor's standard input, then nothing or `detach`; JSON lines up its
standard output until the cluster is ready or has failed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.shape import ClusterShape

DETACH = b"detach\n"
"""Sent by a starter that wants the cluster to outlive it."""

STEP, READY, FAILED = "step", "ready", "failed"
"""Kinds of events."""


@dataclass(frozen=True, slots=True)
class ClusterSpecification:
    """Everything a supervisor needs to know."""

    root: Path
    shape: ClusterShape
    binaries: Binaries
    models: Path | None
    audit_log: bool
    start_seconds: float

    def encode(self) -> bytes:
        """Return one line of JSON."""
        value = {
            "root": str(self.root),
            "shape": self.shape.to_dict(),
            "binaries": self.binaries.to_dict(),
            "models": None if self.models is None else str(self.models),
            "auditLog": self.audit_log,
            "startSeconds": self.start_seconds,
        }
        return json.dumps(value).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "ClusterSpecification":
        """Return the specification `encode` was called on."""
        value: dict[str, Any] = json.loads(line)
        return cls(
            root=Path(value["root"]),
            shape=ClusterShape.from_dict(value["shape"]),
            binaries=Binaries.from_dict(value["binaries"]),
            models=None if value["models"] is None else Path(value["models"]),
            audit_log=value["auditLog"],
            start_seconds=value["startSeconds"],
        )


def encode_event(kind: str, text: str) -> bytes:
    """Return one line of JSON; `text` is a step's description or a failure's sentence."""
    return json.dumps({"event": kind, "text": text}).encode() + b"\n"


def decode_event(line: bytes) -> tuple[str, str]:
    """Return kind and text of an event."""
    value = json.loads(line)
    return value["event"], value["text"]
