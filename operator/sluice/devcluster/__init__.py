"""The embedded cluster: a real Kubernetes control plane as local processes, without root.

`binaries` finds or makes the programs, `cluster` starts a `supervisor` process, and that one owns
etcd, the control plane and the emulated nodes until it is told to stop or its starter dies.
Programs use `sluice.devcluster.cluster`; people use `sluice cluster`.
"""
