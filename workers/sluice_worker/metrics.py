"""Metrics in vLLM's names, and our own of the emulated device's pacing."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 40)
_TOKEN_SECONDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_LATE_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_LABELS = ("model_name",)


class Metrics:
    """All metrics of a worker, in a registry of their own."""

    def __init__(self, model: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._model = model
        self.registry = CollectorRegistry()
        gauge, counter, histogram = self._gauge, self._counter, self._histogram
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
        self.ttft = histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", _SECONDS
        )
        self.tpot = histogram(
            "vllm:time_per_output_token_seconds", "From token to token.", _TOKEN_SECONDS
        )
        self.latency = histogram(
            "vllm:e2e_request_latency_seconds", "From arrival to the last token.", _SECONDS
        )
        self.request_prompt = histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of answered requests.", _TOKENS
        )
        self.request_output = histogram(
            "vllm:request_generation_tokens", "Output tokens of answered requests.", _TOKENS
        )
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

    def note_end(self, reason: str, prompt: int, output: int, seconds: float) -> None:
        """Count a request that has ended.

        Args:
            reason: stop or length; abort if its client left, error if we failed.
            prompt: tokens; like the other numbers, noted of whole answers only.
            output: tokens that its client was told.
            seconds: from its arrival to its last token.
        """
        self._finished.labels(self._model, reason).inc()
        if reason in ("stop", "length"):
            self.latency.observe(seconds)
            self.request_prompt.observe(prompt)
            self.request_output.observe(output)

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

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(name, about, _LABELS, registry=self.registry, buckets=buckets)
        return made.labels(self._model)
