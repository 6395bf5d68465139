"""The models that ship with Sluice, and the programs that make them."""
