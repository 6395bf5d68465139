"""What can go wrong with an embedded cluster, as types the command line turns into exit codes.

Every message is a sentence for a person: it names the thing, the value, and what to do.
"""


class ClusterError(Exception):
    """Something about an embedded cluster did not work; the message says what to do."""


class InvalidClusterError(ClusterError):
    """A name or a shape no cluster can have."""


class BinariesError(ClusterError):
    """The programs of the control plane are neither there nor to be had."""


class ClusterStartError(ClusterError):
    """The control plane or a node did not come up."""


class ClusterConflictError(ClusterError):
    """A cluster of that name is there, but not the one that was asked for."""


class ClusterNotRunningError(ClusterError):
    """No cluster of that name is running."""


class StateFormatError(ClusterError):
    """The state directory was written by another version, or is not ours."""


class NetworkExhaustedError(ClusterError):
    """All loopback networks of this machine are taken by other clusters."""


class NodeError(ClusterError):
    """No such node, or it is not in a state in which that can be done."""


class ComponentError(ClusterError):
    """A part of the control plane cannot be acted on like that."""
