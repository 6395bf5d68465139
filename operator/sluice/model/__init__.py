"""Frozen values that pass between the layers: keys, names, snapshot, memory, plan."""
