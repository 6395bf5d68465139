"""The Kubernetes API of Sluice: pydantic types, from which CRDs and reference are generated."""
