"""When a worker is taken by its own word: while the API server is away, and a little longer.

Then nobody passes on what the kubelet says. A pod that was starting would stay unused for as long
as it takes, so it is asked itself: it has to say that it is ready, and under its own uid. When the
API server is back, kubelets need a moment to write what they know; until then the word holds.
"""

import math
from collections.abc import Callable
from typing import Final

from sluice_gateway.members import Worker

GRACE: Final = 30.0
"""Seconds for which a worker's word holds after the API server is back; a kubelet that could not
write for long tries again within 10 s."""


class Vouching:
    """Knows whether workers may speak for themselves, and takes their word.

    Args:
        clock: Monotonic seconds.
        changed: Called when workers begin or cease to be asked.
        wake: Called with a worker whose word has changed.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        changed: Callable[[], None],
        wake: Callable[[Worker], None],
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._wake = wake
        self._away = False
        self._until = -math.inf

    @property
    def active(self) -> bool:
        """Whether the cluster's word may be out of date."""
        return self._away or self._clock() < self._until

    def note_contact(self, *, heard: bool) -> None:
        """The API server was lost, or is back with a list of all workers."""
        if self._away != heard:
            return
        self._away = not heard
        self._until = self._clock() + GRACE if heard else -math.inf
        self._changed()

    def asks(self, worker: Worker) -> bool:
        """Return whether a worker of which the cluster does not say that it is ready is asked."""
        pod = worker.pod
        unsaid = not pod.ready and not pod.leaving and pod.fence is None
        return unsaid and bool(pod.host) and self.active

    def doubts(self, worker: Worker) -> bool:
        """Return whether a ready worker is asked if it still is: it may have begun anew.

        Only one that has told its uid, for others have no such question, and that has nothing to
        do: what runs shows by itself how it is.
        """
        return worker.pod.ready and worker.named and not worker.running and self.active

    def note_word(self, worker: Worker, *, ready: bool) -> None:
        """A worker that was asked said that it is ready, or did not."""
        if worker.vouched != ready:
            worker.vouched = ready
            self._wake(worker)
