"""The command `sluice-gateway`: reads its arguments, runs the gateway, drains on SIGTERM."""

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import structlog
import uvloop

from sluice_gateway.backends import (
    BackendError,
    Backends,
    add_backend_arguments,
    read_backends,
)
from sluice_gateway.gateway import Gateway, ListenError, PartFailedError
from sluice_gateway.kubeaccess import AccessError, KubeAccess, find_access
from sluice_gateway.openfiles import fit_connections, raise_limit
from sluice_gateway.otelsettings import ExportError, read_export
from sluice_gateway.settings import Settings

_PORT_MAX = 65535
_DEFAULTS = Settings(host="", port=8080, admin_port=8081, uid="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop.

    Returns:
        0 after a drain; 1 if something failed while running; 2 if it could not be started as told.
    """
    settings = parse_arguments(argv)
    log = configure_logging()
    settings = replace(settings, limits=fit_connections(settings.limits, raise_limit(), log))
    try:
        access = settings.backends or find_access(os.environ)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, access, log))
    except (AccessError, ListenError) as error:
        log.error("cannot start", reason=str(error))  # noqa: TRY400 - a sentence, no traceback
        return 2
    except PartFailedError as error:
        log.critical("a part failed", part=str(error), exc_info=error)
        return 1
    log.info("stopped")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> Settings:
    """Return the settings that the command line describes."""
    parser = _build_parser()
    arguments = parser.parse_args(argv)
    try:
        backends = read_backends(arguments)
    except BackendError as error:
        parser.error(str(error))
    uid = os.environ.get("POD_UID") or str(uuid4())
    try:
        export = read_export(os.environ, uid=uid)
    except ExportError as error:
        parser.error(str(error))
    told = _give_slots(_DEFAULTS, backends)
    return replace(
        told,
        host=arguments.host,
        port=arguments.port,
        admin_port=arguments.admin_port,
        uid=uid,
        drain_delay=arguments.drain_delay,
        drain_seconds=arguments.drain_seconds,
        names_workers=arguments.name_workers,
        relaying=replace(told.relaying, wait_for_worker=arguments.wait_for_worker),
        backends=backends,
        api_keys_dir=arguments.api_keys_dir,
        tls_dir=arguments.tls_dir,
        export=export,
    )


def _build_parser() -> argparse.ArgumentParser:
    """Return what knows the arguments."""
    parser = argparse.ArgumentParser(
        prog="sluice-gateway",
        description="Routes OpenAI requests to the workers of all InferencePools, or of a list.",
        epilog="Finds the Kubernetes API by KUBECONFIG or by the pod's service account, unless "
        "--backend says that there is none.",
    )
    parser.add_argument("--host", required=True, help="address to listen on")
    parser.add_argument("--port", type=_read_port, default=_DEFAULTS.port, help="%(default)s")
    parser.add_argument(
        "--admin-port", type=_read_port, default=_DEFAULTS.admin_port, help="%(default)s"
    )
    parser.add_argument(
        "--wait-for-worker",
        type=_read_seconds,
        default=_DEFAULTS.relaying.wait_for_worker,
        metavar="SECONDS",
        help="how long a request waits while no worker is healthy (%(default)s)",
    )
    parser.add_argument(
        "--drain-delay",
        type=_read_seconds,
        default=_DEFAULTS.drain_delay,
        metavar="SECONDS",
        help="how long new requests are still taken after SIGTERM (%(default)s)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=_read_seconds,
        default=_DEFAULTS.drain_seconds,
        metavar="SECONDS",
        help="how long running requests may then take to finish (%(default)s)",
    )
    parser.add_argument(
        "--name-workers",
        action="store_true",
        help="say in the headers of answers which worker they come from",
    )
    parser.add_argument(
        "--api-keys-dir",
        type=Path,
        metavar="DIR",
        help="where a Secret with API keys is mounted: every request has to show one of them",
    )
    parser.add_argument(
        "--tls-dir",
        type=Path,
        metavar="DIR",
        help="where a Secret with tls.crt and tls.key is mounted: the public port speaks HTTPS",
    )
    add_backend_arguments(parser)
    return parser


def _give_slots(settings: Settings, backends: Backends | None) -> Settings:
    """Return settings for workers that run so many requests at once as the backends do."""
    slots = backends.slots if backends else None
    if slots is None:
        return settings
    beyond = settings.relaying.inflight_most - settings.patience.slots
    return replace(
        settings,
        relaying=replace(settings.relaying, inflight_most=slots + beyond),
        patience=replace(settings.patience, slots=slots),
    )


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _PORT_MAX):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port: use 1 to {_PORT_MAX}, or 0 for a free one"
        )
    return int(text)


def _read_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 on")
    return seconds


def configure_logging() -> structlog.stdlib.BoundLogger:
    """Send our own lines, and the libraries' warnings, to standard output as JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return log


async def _run(
    settings: Settings, access: KubeAccess | Backends, log: structlog.stdlib.BoundLogger
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_or_quit, stop)
    async with Gateway(settings, access, log) as gateway:
        await gateway.run_until(stop)


def _stop_or_quit(stop: asyncio.Event) -> None:
    """Drain at the first signal; leave at once at the second."""
    if stop.is_set():
        os._exit(1)
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
