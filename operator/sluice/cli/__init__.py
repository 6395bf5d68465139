"""The command `sluice` (also `kubectl sluice`): one module a group of commands."""
