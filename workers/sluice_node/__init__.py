"""An emulated Kubernetes node: registers itself and runs its pods as local processes."""
