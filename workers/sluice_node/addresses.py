"""Loopback addresses of a node's pods. Pure; the clock comes in.

An address is not given again for 60 s after its pod ended, so that a client that still holds the
old one meets a refused connection and never a stranger.
"""

import math
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

REST_SECONDS = 60.0


class NoAddressError(Exception):
    """No address can be given; the message says why."""


class AddressPool:
    """The addresses of one node, by pod UID. Times are seconds since 1970."""

    def __init__(
        self,
        pods: IPv4Network,
        stable: IPv4Network,
        node: IPv4Address,
        resting: Mapping[str, float] | None = None,
    ) -> None:
        """Take the ranges, the node's own address, and `export_resting` of an earlier run."""
        self._pods = pods
        self._stable = stable
        self._node = node
        self._resting = {IPv4Address(text): until for text, until in (resting or {}).items()}
        self._held: dict[str, IPv4Address] = {}
        self._last = pods.network_address

    def hold(self, uid: str, address: str, now: float) -> bool:
        """Give a pod the address it had before, if it is ours and nobody else holds it."""
        wanted = IPv4Address(address)
        if wanted in self._held.values() or not (wanted in self._pods or wanted in self._stable):
            return False
        self._resting.pop(wanted, None)
        self._held[uid] = wanted
        self._forget(now)
        return True

    def assign(self, uid: str, now: float, stable: str | None = None) -> str:
        """Return a pod's address: the numbered one in the stable range, or a free one in turn.

        Raises:
            NoAddressError: The number is none of the range or taken, or everything is taken.
        """
        if uid in self._held:
            return str(self._held[uid])
        self._forget(now)
        if stable is None:
            address = self._last = self._find_free()
        else:
            address = self._find_stable(stable)
        self._held[uid] = address
        return str(address)

    def release(self, uid: str, now: float) -> None:
        """Take a pod's address back; one of the pod range rests."""
        address = self._held.pop(uid, None)
        if address is not None and address in self._pods:
            self._resting[address] = now + REST_SECONDS

    def export_resting(self) -> dict[str, float]:
        """Return until when addresses rest; without end for those held now.

        For the next run of the agent, should this one be killed: it shortens what is longer than
        REST_SECONDS from its start.
        """
        held = {str(address): math.inf for address in self._held.values()}
        return {**{str(address): until for address, until in self._resting.items()}, **held}

    def _forget(self, now: float) -> None:
        self._resting = {a: until for a, until in self._resting.items() if until > now}

    def _find_free(self) -> IPv4Address:
        first, last = int(self._pods.network_address), int(self._pods.broadcast_address)
        size = last - first + 1
        taken = set(self._held.values()) | set(self._resting) | {self._node}
        for step in range(1, size + 1):
            number = first + (int(self._last) - first + step) % size
            address = IPv4Address(number)
            if number not in (first, last) and address not in taken:
                return address
        raise NoAddressError(
            f"No address is free in {self._pods}: {len(self._held)} are in use and "
            f"{len(self._resting)} rest for {REST_SECONDS:g} s after use."
        )

    def _find_stable(self, number: str) -> IPv4Address:
        size = self._stable.num_addresses
        if not number.isascii() or not number.isdigit() or not 0 < int(number) < size - 1:
            raise NoAddressError(
                f"The annotation sluice.dev/stable-address is '{number}'; it must be a number "
                f"from 1 to {size - 2}."
            )
        address = self._stable.network_address + int(number)
        if address in self._held.values():
            raise NoAddressError(
                f"The stable address {address} is in use by another pod of this node; a Deployment "
                "with one needs the strategy Recreate."
            )
        return address
