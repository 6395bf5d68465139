"""Metrics in vLLM's names, and our own of the emulated device's pacing."""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
)
from prometheus_client.registry import Collector

_FIRST_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_TOKEN_SECONDS = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
)
_REQUEST_SECONDS = (
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
    7680,
)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_CHOICES = (1, 2, 5, 10, 20)
_LATE_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_LABELS = ("model_name",)
_TPOT = "vllm:time_per_output_token_seconds"
_NEW_TPOT = "vllm:inter_token_latency_seconds"
"""What vLLM calls it since 0.11; older dashboards know the other name."""
_SIZES = {
    "prompt_tokens": "Prompt tokens",
    "generation_tokens": "Output tokens",
    "max_num_generation_tokens": "Most output tokens of one choice",
    "params_max_tokens": "Most output tokens asked for",
}
_TIMES = {
    "e2e_request_latency": "From arrival to the last token",
    "request_queue_time": "From arrival to the first step",
    "request_inference_time": "From the first step to the last token",
    "request_prefill_time": "From the first step to the first token",
    "request_decode_time": "From the first token to the last",
}


@dataclass(frozen=True, slots=True)
class Times:
    """When a sequence came to its stations, monotonic; None for those that it never saw."""

    arrived: float
    started: float | None
    first: float | None
    last: float | None


class _Alias(Collector):
    """A histogram under a second name."""

    def __init__(self, histogram: Histogram, own: str, name: str) -> None:
        self._histogram, self._own, self._name = histogram, own, name

    def collect(self) -> Iterable[Metric]:
        """Return the histogram's samples, renamed."""
        for metric in self._histogram.collect():
            renamed = Metric(self._name, metric.documentation, metric.type)
            renamed.samples = [
                sample._replace(name=sample.name.replace(self._own, self._name))
                for sample in metric.samples
            ]
            yield renamed


class Metrics:
    """All metrics of a worker, in a registry of their own.

    Args:
        model: the name that is served.
        context: most tokens of prompt and output; the last bucket of sizes is not above it.
    """

    def __init__(self, model: str, context: int = 1024) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._model = model
        self.registry = CollectorRegistry()
        gauge, counter, histogram = self._gauge, self._counter, self._histogram
        sizes = _list_sizes(context)
        self.running = gauge("vllm:num_requests_running", "Sequences in the running batch.")
        self.waiting = gauge("vllm:num_requests_waiting", "Sequences that wait.")
        self.cache = gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.")
        self.preemptions = counter(
            "vllm:num_preemptions", "Times that a sequence gave its KV blocks back to wait again."
        )
        self.prefix_queries = counter(
            "vllm:prefix_cache_queries", "Tokens of requests that were looked for in the KV cache."
        )
        self.prefix_hits = counter(
            "vllm:prefix_cache_hits", "Tokens of requests that were found in the KV cache."
        )
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens computed.")
        self.output_tokens = counter("vllm:generation_tokens", "Output tokens made.")
        self.step_tokens = histogram(
            "vllm:iteration_tokens_total", "Tokens of a step, of prompts and outputs.", _STEP_TOKENS
        )
        self.ttft = histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", _FIRST_SECONDS
        )
        self.tpot = histogram(_TPOT, "From token to token.", _TOKEN_SECONDS, _NEW_TPOT)
        self.choices = histogram("vllm:request_params_n", "Choices asked for.", _CHOICES)
        self._sizes = [
            histogram(f"vllm:request_{name}", f"{about} of answered sequences.", sizes)
            for name, about in _SIZES.items()
        ]
        self._times = [
            histogram(f"vllm:{name}_seconds", f"{about}, of answered sequences.", _REQUEST_SECONDS)
            for name, about in _TIMES.items()
        ]
        self.steps = counter("sluice_worker_steps", "Steps run.")
        self.overrun = counter(
            "sluice_worker_steps_overrun",
            "Steps whose computation took longer than the emulated device would.",
        )
        self.late = histogram(
            "sluice_worker_pacing_late_seconds",
            "How long after the emulated device's schedule a step ended.",
            _LATE_SECONDS,
        )
        self.energy = counter(
            "sluice_worker_device_energy_joules",
            "Energy that the emulated devices would take for steps; computed, its constants partly"
            " assumed.",
        )
        self.known_answers = counter(
            "sluice_worker_known_answers", "Known prompts answered, beside all requests."
        )
        self._finished = Counter(
            "vllm:request_success",
            "Ended requests.",
            (*_LABELS, "finished_reason"),
            registry=self.registry,
        )

    def note_end(self, reason: str, *, prompt: int, output: int, limit: int, times: Times) -> None:
        """Count a sequence that has ended; of whole ones also the sizes and times.

        Args:
            reason: stop or length; abort if its client left, error if we failed.
            prompt: tokens.
            output: tokens that its client was told.
            limit: most output tokens that it could have had.
            times: when it came to its stations.
        """
        self._finished.labels(self._model, reason).inc()
        started, first, last = times.started, times.first, times.last
        if reason not in ("stop", "length") or started is None or first is None or last is None:
            return
        for size, value in zip(self._sizes, (prompt, output, output, limit), strict=True):
            size.observe(value)
        spans = (
            last - times.arrived,
            started - times.arrived,
            last - started,
            first - started,
            last - first,
        )
        for span, seconds in zip(self._times, spans, strict=True):
            span.observe(seconds)

    def tell_cache_size(self, positions: int, blocks: int) -> None:
        """Publish the size of the KV cache, and how many positions a block has."""
        info = Gauge(
            "vllm:cache_config_info",
            "Size of the KV cache; the value is always 1.",
            (*_LABELS, "block_size", "num_gpu_blocks"),
            registry=self.registry,
        )
        info.labels(self._model, positions, blocks).set(1)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, _LABELS, registry=self.registry).labels(self._model)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, _LABELS, registry=self.registry).labels(self._model)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], alias: str = ""
    ) -> Histogram:
        made = Histogram(name, about, _LABELS, registry=self.registry, buckets=buckets)
        if alias:
            self.registry.register(_Alias(made, name, alias))
        return made.labels(self._model)


def _list_sizes(most: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, 50, … up to `most`: vLLM's buckets of numbers of tokens."""
    decades = (10**power for power in range(len(str(most))))
    return tuple(one for ten in decades for one in (ten, 2 * ten, 5 * ten) if one <= most)
