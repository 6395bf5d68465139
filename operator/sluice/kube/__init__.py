"""The one way to the Kubernetes API: paths and a thin client that `observe` and `act` share."""
