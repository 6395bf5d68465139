"""Every setting of the gateway, typed, with its default; the command line changes some of them."""

from dataclasses import dataclass
from pathlib import Path

from sluice_gateway.backends import Backends
from sluice_gateway.otelsettings import Export


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. Sizes in bytes, times in seconds.

    Attributes:
        connections: Open client connections; further ones get a 503 and are closed.
        handshakes: TLS handshakes that have not ended; beyond that the oldest gives way.
        handshake_seconds: From the connection to the end of its TLS handshake.
        header_seconds: From a request's first byte to the end of its headers.
        body_seconds: From the end of the headers to the end of the body.
        body_bytes: One request's body.
        buffered_bytes: All request bodies being held.
        idle_connection_seconds: A kept-alive connection without a request. Longer than the
            clients' own limit, so that they close first.
        slow_reader_seconds: A client that takes nothing of what was written to it.
    """

    connections: int = 4096
    handshakes: int = 512
    handshake_seconds: float = 5.0
    header_seconds: float = 5.0
    body_seconds: float = 30.0
    body_bytes: int = 4 << 20
    buffered_bytes: int = 128 << 20
    idle_connection_seconds: float = 75.0
    slow_reader_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Relaying:
    """How a request is carried to workers. Times in seconds.

    Attributes:
        wait_for_worker: How long a request waits while no worker is healthy, each time it needs
            one: a failover may be on its way.
        wait_while_busy: How much of that it may wait while workers are healthy, and all busy. Who
            has waited so long would miss any objective: better to be told to come back.
        move_seconds: Of computing prompts that streams which go on elsewhere may bring one worker
            at a time; further ones wait until those have begun. One may always go.
        hearten_seconds: While no worker is healthy, a stream that waits gets a comment so often:
            clients and proxies give up a connection on which nothing comes.
        waiting_most: Requests waiting in one pool.
        waiting_per_worker: The same for each healthy worker, while there is one: two batches.
            Beyond that the line moves too slowly.
        waiting_least: Requests that may wait however few workers are healthy.
        inflight_most: Sequences from this gateway on one worker (a request is one for each choice
            of each prompt); with so many it gets no more requests. They wait here, where the first
            worker with room takes them, a new one too, and where the operator sees that they wait.
            A worker's batch is 8; one in its own line keeps it full while an answer's
            end is on its way here and the next request there. What waits here can still go where
            a place is free first, and lets pass what is more urgent.
        attempts_most: Dispatches of one request that ended in an error answer, the first included.
        moves_most: Dispatches of one request in a row of which no token came, refusals left out.
        losses_most: How often a worker may break off under one request with no token of it between,
            beyond how often others are lost without it. It may be the request that ends them, and
            no request may end a whole pool.
        loss_pause: Before the last of these, and any further, a request waits about so long (half
            to one and a half times). Where many workers are lost at once, as with their rack, it is
            then known which are left; and who was beside such a request comes back at another time.
        dispatches_most: Dispatches of one request in all.
        connect_seconds: Opening a connection to a worker.
        first_token_seconds: From the dispatch to the first token of a stream, at most.
        idle_stream_seconds: Between two events of a stream, at most.
        whole_seconds: From the dispatch to the end of an answer that does not stream, at most.
        answer_bytes: One answer that does not stream.
        event_bytes: One server-sent event.
        breath: A worker that broke a connection gets no new request for that long, even if it
            answers otherwise; each further one in a row doubles it. Likewise a worker of which
            three error answers came and nothing else, while there is another.
        breath_most: The longest of these.
        refusal_hold_most: The longest time for which a worker's Retry-After is believed.
    """

    wait_for_worker: float = 30.0
    wait_while_busy: float = 10.0
    move_seconds: float = 1.0
    hearten_seconds: float = 5.0
    waiting_most: int = 256
    waiting_per_worker: int = 16
    waiting_least: int = 16
    inflight_most: int = 9
    attempts_most: int = 3
    moves_most: int = 8
    losses_most: int = 3
    loss_pause: float = 1.0
    dispatches_most: int = 32
    connect_seconds: float = 1.0
    first_token_seconds: float = 120.0
    idle_stream_seconds: float = 60.0
    whole_seconds: float = 600.0
    answer_bytes: int = 32 << 20
    event_bytes: int = 1 << 20
    breath: float = 0.25
    breath_most: float = 10.0
    refusal_hold_most: float = 5.0


@dataclass(frozen=True, slots=True)
class Patience:
    """When a worker that gives nothing to anybody is silent. Times in seconds.

    Attributes:
        tokens: A worker may be silent for as long as so many tokens of a stream take it. A step
            that takes twenty times as long is no slow step: batch and context make a factor of 3.
        next_least: It may be silent so long in any case while it decodes.
        first_least: The same while it has given no first token to any of its requests: a
            tokenizer's first call, or a connection on a busy machine, must not look like a fault.
        margin: How much longer than expected a prompt may take. The expectation is a mean over
            lighter batches, and steps are about twice as long in full ones.
        slots: Requests that a worker runs at once; those beyond queue there.
        chunk_bytes: Bytes of a prompt that a step computes at least, until it is known better.
        hold_first: A silent worker gets no new requests for so long, then one at a time until one
            gets on. Long enough for the operator to take it out before that.
        hold_most: Each silence doubles the hold, up to this.
        stall_seconds: A sweep that is so late says that we stood still.
    """

    tokens: float = 20.0
    next_least: float = 1.0
    first_least: float = 2.0
    margin: float = 3.0
    slots: int = 8
    chunk_bytes: int = 16
    hold_first: float = 10.0
    hold_most: float = 80.0
    stall_seconds: float = 0.25


@dataclass(frozen=True, slots=True)
class Probing:
    """Liveness probes of the workers. Times in seconds.

    Attributes:
        stall_seconds: A time-out noticed this much too late says that we were slow, not the worker.
    """

    period: float = 1.0
    timeout: float = 0.5
    failures: int = 3
    stall_seconds: float = 0.1


@dataclass(frozen=True, slots=True)
class Auditing:
    """Comparing finished answers between accelerators. Times in seconds.

    Attributes:
        period: Between two looks for an answer that waits and workers that have room.
        floor_seconds: A pair of classes that was not compared for so long is, even if its workers
            are busy; their budgets hold all the same.
        busy_most: Requests on a worker with which it has room: half a batch.
        queue_most: Answers of a pool that wait; further ones are left out.
        stale_seconds: An answer that has waited for so long is left out.
        tokens_most: Of an answer and its prompt; longer ones are left out. What a worker tells of
            them is read in a few milliseconds.
        text_bytes: Likewise, of request and answer where it did not stream.
        top: Likeliest tokens that are compared in each place.
        request_seconds: One comparison.
        answer_bytes: One answer of a worker.
    """

    period: float = 0.2
    floor_seconds: float = 15.0
    busy_most: int = 4
    queue_most: int = 16
    stale_seconds: float = 120.0
    tokens_most: int = 1024
    text_bytes: int = 32 << 10
    top: int = 5
    request_seconds: float = 20.0
    answer_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Shadowing:
    """Mirroring requests to workers without traffic.

    Attributes:
        queue_most: Requests that wait to be mirrored; further ones are left out.
        at_once: Mirrored requests on one worker: a batch.
        body_bytes: Of a request; longer ones are left out.
        event_bytes: One event of an answer.
        request_seconds: One mirrored request.
    """

    queue_most: int = 16
    at_once: int = 8
    body_bytes: int = 32 << 10
    event_bytes: int = 1 << 20
    request_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Watching:
    """Listing and watching the Kubernetes API. Times in seconds.

    Attributes:
        watch_seconds: The server ends a watch after that; a silent one is given up a little later.
        silence_grace: How much later.
        request_seconds: One page of a list, or the opening of a watch.
        backoff_first: Bound of the first pause after a failure; each further one doubles it.
        backoff_most: Bound of every pause.
        page: Objects a page of a list.
        event_bytes: One watch event.
    """

    watch_seconds: int = 45
    silence_grace: float = 10.0
    request_seconds: float = 15.0
    backoff_first: float = 0.2
    backoff_most: float = 5.0
    page: int = 500
    event_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class Following:
    """Asking the backends of a fixed list for their models. Times in seconds.

    Attributes:
        period: Between two looks at a backend that is well; `eager_period` at any other.
        request_seconds: One answer.
        answer_bytes: One answer.
        models_most: Models that one backend may name; further ones are not served.
    """

    period: float = 5.0
    eager_period: float = 1.0
    request_seconds: float = 5.0
    answer_bytes: int = 1 << 20
    models_most: int = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a gateway process is told.

    Attributes:
        uid: Identity of this process in `/signals`.
        drain_delay: After SIGTERM, how long new requests are still taken, while endpoints and load
            balancers learn of the end from `/readyz`.
        drain_seconds: How long running requests may take to finish after that; together shorter
            than the pod's grace period.
        names_workers: Whether answers say in their headers which worker they come from, of which
            class, and after how many attempts. Names of pods are nothing for strangers.
        backends: The workers, where no cluster says which there are.
        api_keys_dir: Where the Secret with the API keys is mounted; None if nobody needs one.
        tls_dir: Where the Secret with certificate and key is mounted; None for plain HTTP.
        export: Where spans go; None if nowhere.
        mount_period: Between two looks at mounted Secrets, in seconds.
    """

    host: str
    port: int
    admin_port: int
    uid: str
    drain_delay: float = 3.0
    drain_seconds: float = 50.0
    names_workers: bool = False
    limits: Limits = Limits()
    relaying: Relaying = Relaying()
    patience: Patience = Patience()
    probing: Probing = Probing()
    auditing: Auditing = Auditing()
    shadowing: Shadowing = Shadowing()
    watching: Watching = Watching()
    following: Following = Following()
    backends: Backends | None = None
    api_keys_dir: Path | None = None
    tls_dir: Path | None = None
    export: Export | None = None
    mount_period: float = 1.0
