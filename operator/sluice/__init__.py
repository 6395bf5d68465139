"""Sluice: an operator that keeps LLM inference inside its SLO on several kinds of accelerator."""
