"""Pools to manifests, pure: the same pool and plan always render to equal documents."""
