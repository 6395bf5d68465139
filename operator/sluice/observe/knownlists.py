"""Lists of known answers as workers give them, and which one rules where they differ.

A worker is judged only while its list is the one that rules for its model and numerics, and by that
one alone: so none can lower the bar for itself. What rules is counted, and not what came first: so
none can keep the others from being judged.
"""

from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class Wire(BaseModel):
    """JSON of a worker, taken as it is: nothing is converted."""

    model_config = ConfigDict(
        alias_generator=to_camel, frozen=True, strict=True, protected_namespaces=()
    )


Token = Annotated[int, Field(ge=0, lt=1 << 31)]
_Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
_Logprob = Annotated[float, Field(le=0, allow_inf_nan=False)]
_Tolerance = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Kind = tuple[str, str]
"""Digest of a model, and the numerics that it is computed in."""


class Named(Wire):
    """What says of which model it is, and in which numerics."""

    model_digest: _Name
    numerics: _Name

    @property
    def kind(self) -> Kind:
        """Model and numerics."""
        return self.model_digest, self.numerics


class Pair(Wire):
    """A prompt and what a healthy worker makes of it."""

    prompt: Annotated[list[Token], Field(min_length=1, max_length=8192)]
    output: Annotated[list[Token], Field(min_length=1, max_length=1024)]
    logprobs: list[_Logprob] | None = None


class Ruling(Wire):
    """What is compared with: without scores, as of other workers than ours, tokens alone."""

    tolerance: _Tolerance | None = None
    answers: Annotated[list[Pair], Field(max_length=256)]


class KnownList(Ruling, Named):
    """The list that a worker gives."""

    @model_validator(mode="after")
    def _check_scores(self) -> Self:
        for number, pair in enumerate(self.answers, 1):
            if (pair.logprobs is None) != (self.tolerance is None):
                raise ValueError(f"answer {number} has scores or the list a tolerance, not both")
            if pair.logprobs is not None and len(pair.logprobs) != len(pair.prompt) - 1:
                raise ValueError(
                    f"answer {number} has {len(pair.logprobs)} scores of {len(pair.prompt)} tokens;"
                    " all after the first have one"
                )
        return self

    def rule(self) -> Ruling:
        """Return what rules for the model."""
        return Ruling.model_construct(tolerance=self.tolerance, answers=self.answers)


@dataclass(slots=True, eq=False)
class _Entry:
    """One list, and who gives it: pod uids by key."""

    ruling: Ruling
    givers: dict[str, str] = field(default_factory=dict)


class ListBook:
    """Which list each worker gives now, and which one rules; what nobody gives is forgotten.

    The one that most pods give rules. Where as many give another, nobody can tell who is right, and
    the stricter one rules: one with scores, then one of the smaller tolerance, then the older one.
    So one odd worker makes others unjudged only where there is but one other, and it is stricter.
    """

    def __init__(self) -> None:
        self._entries: dict[Kind, list[_Entry]] = {}  # oldest first
        self._given: dict[str, tuple[Kind, _Entry]] = {}

    def take(self, key: str, pod: str, kind: Kind, own: Ruling) -> Ruling:
        """Note what a worker gives, and return what rules for the kind.

        Args:
            key: of the worker, or of a slot of a probation pod.
            pod: its pod's uid; the slots of one pod have one voice together.
            kind: of what model the list is, and in which numerics.
            own: the list.
        """
        if not self.has(key, kind, own):
            self.drop(key)
            entries = self._entries.setdefault(kind, [])
            entry = next((one for one in entries if one.ruling == own), None)
            if entry is None:
                entry = _Entry(own)
                entries.append(entry)
            entry.givers[key] = pod
            self._given[key] = kind, entry
        return max(self._entries[kind], key=_rank).ruling

    def has(self, key: str, kind: Kind, own: Ruling) -> bool:
        """Tell whether a worker gave just this when it was asked last."""
        given = self._given.get(key)
        return given is not None and given[0] == kind and given[1].ruling == own

    def drop(self, key: str) -> None:
        """Forget what a worker gave: it is gone, or has no list any more."""
        if key not in self._given:
            return
        kind, entry = self._given.pop(key)
        del entry.givers[key]
        if entry.givers:
            return
        self._entries[kind].remove(entry)
        if not self._entries[kind]:
            del self._entries[kind]


def _rank(entry: _Entry) -> tuple[int, bool, float]:
    """Return what the greatest of rules; of equal ones `max` takes the first, which is oldest."""
    tolerance = entry.ruling.tolerance
    return len(set(entry.givers.values())), tolerance is not None, -(tolerance or 0.0)
