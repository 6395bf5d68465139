"""What the gateway reads from the API's objects: raw dictionaries in, frozen values out.

Fields that this version does not know are ignored; a field that it needs and cannot read raises
`ObjectError` with a sentence, which the cluster view logs instead of failing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from sluice_gateway import names
from sluice_gateway.engines import Engine, parse_engine
from sluice_gateway.goals import RequestClass
from sluice_gateway.quantities import QuantityError, parse_duration, parse_percent

_T = TypeVar("_T")
_PORT_MAX: Final = 65535


class ObjectError(ValueError):
    """An object that cannot be used; the message says which field and why."""


@dataclass(frozen=True, slots=True)
class Slo:
    """The pool's objective, in seconds."""

    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True)
class Parity:
    """How a pool's answers are compared between accelerators.

    Attributes:
        sample: Fraction of its finished answers.
        budget: Fraction of a worker's time that it may take.
        shadow: Fraction of its requests that workers without traffic answer, too.
    """

    sample: float
    budget: float
    shadow: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """The part of a pool that its owner wrote.

    Attributes:
        key: `namespace/name`.
        created: Creation time, seconds since the epoch; the older pool wins a model name.
        variants: Accelerator classes in the pool's order.
        request_class: Of its requests that say nothing of their class.
        parity: None if its answers are not compared.
    """

    key: str
    created: float
    model: str
    slo: Slo
    variants: tuple[str, ...]
    request_class: str = RequestClass.STANDARD
    parity: Parity | None = None


@dataclass(frozen=True, slots=True)
class Ramp:
    """Pods that came back from quarantine lately, by name, and their fraction of the traffic."""

    share: float
    pods: frozenset[str]


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """The part of a pool's status that the operator decided.

    Attributes:
        shares: Fraction of traffic by variant, adding up to 1; empty when nothing is decided yet.
        quarantined: Names of pods that get no traffic.
        ramps: By variant, which of its pods are coming back, and how much traffic they get.
    """

    shares: Mapping[str, float]
    quarantined: frozenset[str]
    ramps: Mapping[str, Ramp] = field(default_factory=dict)

    @property
    def returning(self) -> dict[str, str]:
        """Names of the groups of returning pods, by variant."""
        return {variant: f"{variant} (returning)" for variant in self.ramps}

    def find_group(self, variant: str, pod: str) -> str:
        """Return the group that a worker belongs to: its variant, or those of it coming back."""
        ramp = self.ramps.get(variant)
        return self.returning[variant] if ramp is not None and pod in ramp.pods else variant

    def find_group_shares(self) -> dict[str, float]:
        """Return the fraction of traffic by group: what returning pods get, their variant loses."""
        shares = dict(self.shares)
        for variant, group in self.returning.items():
            share = shares.get(variant, 0.0)
            returning = min(share, self.ramps[variant].share)
            shares[variant] = share - returning
            shares[group] = returning
        return shares


UNDECIDED: Final = PoolDecision(shares={}, quarantined=frozenset())


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """One worker pod as the API server last told it.

    Attributes:
        pool: Key of its pool, `namespace/name`.
        host: Pod address; empty until the kubelet reports one.
        ready: The kubelet says that its containers are ready, and nobody deleted it.
        leaving: Somebody deleted it.
        base: URL in front of the API's paths, where host and port do not say it.
        fence: The uid that must answer there: None is the pod's own, empty is anybody's.
        health_path: What probes ask for.
        key: Bearer key that it wants; empty if none.
        engine: What its arguments, or itself, say of it; None of a foreign backend.
    """

    uid: str
    name: str
    pool: str
    variant: str
    host: str
    port: int
    ready: bool
    leaving: bool = False
    base: str = ""
    fence: str | None = None
    health_path: str = "/healthz"
    key: str = field(default="", repr=False)
    engine: Engine | None = None

    @property
    def url(self) -> str:
        """URL in front of the API's paths, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.base or f"http://{host}:{self.port}"

    @property
    def fencing_uid(self) -> str:
        """The uid that must answer; empty if anybody may."""
        return self.uid if self.fence is None else self.fence

    def render_headers(self) -> dict[str, str]:
        """Return the headers of every request to it: whom it is meant for, and its key."""
        headers = {names.HEADER_WORKER_UID: self.fencing_uid} if self.fencing_uid else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def is_other(self, answering: str | None) -> bool:
        """Return whether an answer that names this uid, or none, comes from another worker."""
        return bool(answering and self.fencing_uid) and answering != self.fencing_uid


def parse_pool_spec(raw: Mapping[str, Any]) -> PoolSpec:
    """Read metadata and spec of an InferencePool.

    Raises:
        ObjectError: If model name, SLO, variants, the class of its requests or how they are
            compared cannot be read.
    """
    metadata = _take(raw, "metadata", dict)
    spec = _take(raw, "spec", dict)
    model = _take(_take(spec, "model", dict, "spec"), "name", str, "spec.model")
    slo = _take(spec, "slo", dict, "spec")
    try:
        objective = Slo(ttft=parse_duration(slo.get("ttft")), tpot=parse_duration(slo.get("tpot")))
    except QuantityError as error:
        raise ObjectError(f"spec.slo: {error}") from error
    variants = tuple(
        _take(_as_dict(entry, "spec.variants"), "acceleratorClass", str, "spec.variants")
        for entry in _take(spec, "variants", list, "spec")
    )
    return PoolSpec(
        key=read_key(metadata),
        created=_read_time(metadata.get("creationTimestamp")),
        model=model,
        slo=objective,
        variants=variants,
        request_class=_read_request_class(metadata),
        parity=_read_parity(spec),
    )


def parse_pool_decision(raw: Mapping[str, Any]) -> PoolDecision:
    """Read shares, quarantine and ramps from an InferencePool's status.

    No status, no shares, or shares that are all zero mean that nothing is decided.

    Raises:
        ObjectError: If the status is there and cannot be read.
    """
    status = raw.get("status")
    entries = _as_dict(status, "status").get("variants") if status else None
    if not entries:
        return UNDECIDED
    if not isinstance(entries, list):
        raise ObjectError(f"status.variants is not a list: {entries!r}")
    shares: dict[str, float] = {}
    quarantined: set[str] = set()
    ramps: dict[str, Ramp] = {}
    for entry in entries:
        where = "status.variants"
        variant = _as_dict(entry, where)
        name = _take(variant, "acceleratorClass", str, where)
        try:
            shares[name] = parse_percent(variant["share"]) if "share" in variant else 0.0
        except QuantityError as error:
            raise ObjectError(f"status.variants[{name}].share: {error}") from error
        quarantined |= _read_pods(variant.get("quarantined"), f"{where}[{name}].quarantined")
        if variant.get("ramp"):
            ramps[name] = _read_ramp(variant["ramp"], f"{where}[{name}].ramp")
    total = sum(shares.values())
    normal = {name: share / total for name, share in shares.items()} if total > 0 else {}
    return PoolDecision(shares=normal, quarantined=frozenset(quarantined), ramps=ramps)


def parse_worker(raw: Mapping[str, Any]) -> WorkerPod:
    """Read a worker pod.

    Ready means the kubelet's own word (condition ContainersReady): the node controller turns only
    the condition Ready when a node's agent falls silent, and such workers serve on.

    Raises:
        ObjectError: If uid, labels or port cannot be read.
    """
    metadata = _take(raw, "metadata", dict)
    status = _as_dict(raw.get("status") or {}, "status")
    labels = _as_dict(metadata.get("labels") or {}, "metadata.labels")
    namespace = read_key(metadata).partition("/")[0]
    conditions = status.get("conditions") or []
    said_ready = any(
        isinstance(condition, dict)
        and condition.get("type") == "ContainersReady"
        and condition.get("status") == "True"
        for condition in conditions
    )
    host = status.get("podIP") or ""
    return WorkerPod(
        uid=_take(metadata, "uid", str, "metadata"),
        name=_take(metadata, "name", str, "metadata"),
        pool=f"{namespace}/{_take(labels, names.LABEL_POOL, str, 'metadata.labels')}",
        variant=_take(labels, names.LABEL_CLASS, str, "metadata.labels"),
        host=host if isinstance(host, str) else "",
        port=_read_port(raw),
        ready=bool(host) and said_ready and not metadata.get("deletionTimestamp"),
        leaving=bool(metadata.get("deletionTimestamp")),
        engine=_read_engine(raw),
    )


def read_key(metadata: Mapping[str, Any]) -> str:
    """Return `namespace/name` of a namespaced object's metadata."""
    namespace = _take(metadata, "namespace", str, "metadata")
    return f"{namespace}/{_take(metadata, 'name', str, 'metadata')}"


def _read_request_class(metadata: Mapping[str, Any]) -> str:
    annotations = _as_dict(metadata.get("annotations") or {}, "metadata.annotations")
    said = annotations.get(names.ANNOTATION_REQUEST_CLASS, RequestClass.STANDARD)
    if said not in set(RequestClass):
        known = ", ".join(RequestClass)
        raise ObjectError(
            f"annotation {names.ANNOTATION_REQUEST_CLASS} is {said!r}; use one of {known}"
        )
    return str(said)


def _read_parity(spec: Mapping[str, Any]) -> Parity | None:
    if not spec.get("parity"):
        return None
    told = _as_dict(spec["parity"], "spec.parity")
    try:
        return Parity(
            sample=parse_percent(told.get("sample")),
            budget=parse_percent(told.get("budget")),
            shadow=parse_percent(told.get("shadow", "0%")),
        )
    except QuantityError as error:
        raise ObjectError(f"spec.parity: {error}") from error


def _read_engine(raw: Mapping[str, Any]) -> Engine | None:
    """Return what the first container that says anything of an engine says."""
    spec = _as_dict(raw.get("spec") or {}, "spec")
    for container in spec.get("containers") or []:
        arguments = _as_dict(container, "spec.containers").get("args") or []
        engine = parse_engine(arguments) if isinstance(arguments, list) else None
        if engine is not None:
            return engine
    return None


def _read_ramp(value: object, where: str) -> Ramp:
    ramp = _as_dict(value, where)
    try:
        share = parse_percent(ramp.get("share"))
    except QuantityError as error:
        raise ObjectError(f"{where}.share: {error}") from error
    return Ramp(share=share, pods=_read_pods(ramp.get("pods"), f"{where}.pods"))


def _read_pods(value: object, where: str) -> frozenset[str]:
    pods = value or []
    if not isinstance(pods, list) or not all(isinstance(pod, str) for pod in pods):
        raise ObjectError(f"{where} is not a list of pod names")
    return frozenset(pods)


def _read_port(raw: Mapping[str, Any]) -> int:
    """Return the number of the container port called `http`, or the workers' usual one."""
    spec = _as_dict(raw.get("spec") or {}, "spec")
    for container in spec.get("containers") or []:
        for port in _as_dict(container, "spec.containers").get("ports") or []:
            if _as_dict(port, "ports").get("name") != names.PORT_NAME:
                continue
            number = port.get("containerPort")
            if not isinstance(number, int) or not 0 < number <= _PORT_MAX:
                raise ObjectError(f"port {names.PORT_NAME} has the number {number!r}")
            return number
    return names.WORKER_PORT


def _read_time(value: object) -> float:
    """Return a Kubernetes timestamp as seconds since the epoch."""
    if not isinstance(value, str):
        raise ObjectError(f"metadata.creationTimestamp is {value!r}, not a time")
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError as error:
        raise ObjectError(f"metadata.creationTimestamp {value!r} is not a time") from error


def _as_dict(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ObjectError(f"{where} is not an object: {value!r}")
    return value


def _take(source: Mapping[str, Any], field: str, kind: type[_T], where: str = "") -> _T:
    """Return a required, non-empty field of the given type."""
    value = source.get(field)
    if not isinstance(value, kind) or not value:
        path = f"{where}.{field}" if where else field
        raise ObjectError(f"{path} should be a {kind.__name__}, but is {value!r}")
    return value
