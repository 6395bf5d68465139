"""Observation: events, lists, probes and signals in; one frozen snapshot out."""
