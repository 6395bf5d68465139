"""Metrics in vLLM's names, and our own of the emulated device."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_TTFT = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 40)
_TPOT = (0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_LABELS = ("model_name",)


class Metrics:
    """All metrics of a worker, in a registry of their own."""

    def __init__(self, model: str) -> None:
        made = self.registry = CollectorRegistry()

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(name, about, _LABELS, registry=made).labels(model)

        def counter(name: str, about: str) -> Counter:
            return Counter(name, about, _LABELS, registry=made).labels(model)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, _LABELS, registry=made, buckets=buckets).labels(model)

        self.running = gauge("vllm:num_requests_running", "Sequences in the running batch.")
        self.waiting = gauge("vllm:num_requests_waiting", "Sequences that wait.")
        self.cache = gauge("vllm:kv_cache_usage_perc", "Share of the KV slots in use, 0 to 1.")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens computed.")
        self.output_tokens = counter("vllm:generation_tokens", "Output tokens made.")
        self.ttft = histogram("vllm:time_to_first_token_seconds", "Seconds.", _TTFT)
        self.tpot = histogram("vllm:time_per_output_token_seconds", "Seconds.", _TPOT)
        self.latency = histogram("vllm:e2e_request_latency_seconds", "Seconds.", _TTFT)
        self.steps = gauge("sluice_worker_steps_total", "Steps run.")
        self.overrun = gauge(
            "sluice_worker_steps_overrun_total", "Steps that took longer than the emulated device."
        )
        self._finished = Counter(
            "vllm:request_success", "Ended requests.", (*_LABELS, "finished_reason"), registry=made
        )
        self._model = model

    def count_finished(self, reason: str) -> None:
        """Count an ended request by stop, length or abort."""
        self._finished.labels(self._model, reason).inc()
