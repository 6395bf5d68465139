"""Control: the operator's process. Loops, leadership, the queue, settings and telemetry."""
