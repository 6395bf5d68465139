"""What the parts of one agent share, handed to every pod's runner."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from sluice_node.addresses import REST_SECONDS, AddressPool
from sluice_node.config import NodeConfig
from sluice_node.devicebank import DeviceBank
from sluice_node.devices import CapacityLedger
from sluice_node.events import EventRecorder
from sluice_node.kubeapi import KubeApi

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeContext:
    """One node's means.

    Attributes:
        gate: Set while the agent acts; cleared while it is silent.
        probes: For probes only: no connection is kept.
    """

    config: NodeConfig
    api: KubeApi
    gate: asyncio.Event
    events: EventRecorder
    ledger: CapacityLedger
    devices: DeviceBank
    addresses: "AddressBook"
    probes: aiohttp.ClientSession

    @property
    def pods(self) -> Path:
        """Directory of the pods' directories."""
        return self.config.state_dir / "pods"


class AddressBook:
    """The address pool, and a file so that addresses rest across a killed agent too."""

    def __init__(self, config: NodeConfig) -> None:
        self._file = config.state_dir / "addresses.json"
        self.pool = AddressPool(
            config.pod_range, config.stable_range, config.address, self._load_resting(time.time())
        )

    def _load_resting(self, now: float) -> dict[str, float]:
        try:
            saved = json.loads(self._file.read_text())
            return {str(a): min(float(until), now + REST_SECONDS) for a, until in saved.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError, OSError) as error:
            _LOG.warning("%s cannot be used, addresses may be reused early: %s", self._file, error)
            return {}

    def hold(self, uid: str, address: str) -> bool:
        """See `AddressPool.hold`."""
        held = self.pool.hold(uid, address, time.time())
        self._save()
        return held

    def assign(self, uid: str, stable: str | None) -> str:
        """See `AddressPool.assign`."""
        address = self.pool.assign(uid, time.time(), stable)
        self._save()
        return address

    def release(self, uid: str) -> None:
        """See `AddressPool.release`."""
        self.pool.release(uid, time.time())
        self._save()

    def _save(self) -> None:
        pending = self._file.with_suffix(".new")
        pending.write_text(json.dumps(self.pool.export_resting()))
        pending.replace(self._file)
