"""Begins every request's span, and hands it on when the request has ended."""

from sluice_gateway.attempts import Exchange
from sluice_gateway.otlp import SpanExporter
from sluice_gateway.spans import render_spans
from sluice_gateway.tracing import Draw, Headers, Sampler, Trace, begin_trace


class Tracer:
    """Gives requests their place in a trace; exports their spans if there is an exporter.

    Args:
        draw: Gives random numbers of so many bits.
        exporter: None if spans are not exported; then there is no `sampler` either.
    """

    def __init__(self, draw: Draw, exporter: SpanExporter | None, sampler: Sampler | None) -> None:
        self._draw = draw
        self._exporter = exporter
        self._sampler = sampler

    def begin(self, headers: Headers) -> Trace:
        """Return the span of a request that has arrived."""
        return begin_trace(headers, self._draw, self._sampler)

    def finish(self, exchange: Exchange, ended_at: float) -> None:
        """Export a request's spans, if it was sampled; `ended_at` in seconds since the epoch."""
        trace = exchange.trace
        if self._exporter is not None and trace is not None and trace.sampled:
            self._exporter.put(render_spans(exchange, trace, ended_at))
