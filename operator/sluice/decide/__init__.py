"""Decisions, pure: no clock, logger, client, randomness or I/O (kept so by an import contract).

`planner.plan(Snapshot, Memory)` composes the modules beside it; `status` words what came of it.
"""
