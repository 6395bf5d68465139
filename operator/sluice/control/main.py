"""The operator's process: `sluice-operator --settings FILE`."""

import asyncio
import datetime as dt
import os
import signal
import sys
import uuid
from pathlib import Path

import click
import kopf
import structlog
import uvloop
from aiohttp import web
from kubernetes.aio.config import ConfigException

from sluice.act.writer import Writer
from sluice.control.admin import make_app
from sluice.control.applying import Applier
from sluice.control.leadership import Leadership
from sluice.control.passes import PlannerLoop
from sluice.control.passfiles import PassFiles
from sluice.control.recording import Recorder
from sluice.control.sensors import Sensors
from sluice.control.settings import RecordingSettings, Settings, SettingsError, load_settings
from sluice.control.telemetry import Telemetry, configure_logging
from sluice.control.watching import TOKEN_LIFE, Watching
from sluice.kube.client import KubeClient
from sluice.model.clock import steady_clock

log = structlog.get_logger()


class Operator:
    """All parts, put together."""

    def __init__(self, settings: Settings, kubeconfig: str | None) -> None:
        clock = steady_clock()
        self._settings = settings
        self._client = KubeClient(kubeconfig)
        identity = os.environ.get("POD_UID") or str(uuid.uuid4())
        namespace = os.environ.get("POD_NAMESPACE", "sluice-system")
        self.leadership = Leadership(self._client, namespace, identity, settings.lease, self._wake)
        writer = Writer(self._client, self.leadership)
        self.sensors = Sensors(self._client, settings, clock, self._wake, namespace)
        self._watching = Watching(self.sensors.store, self._log_in)
        instance = os.environ.get("POD_NAME", identity)
        self._recorder = recorder = Recorder(instance, _make_files(settings.recording))
        applier = Applier(
            writer,
            self.sensors.store,
            clock,
            worker_image=settings.worker_image,
            instance=instance,
            namespace=namespace,
        )
        telemetry = Telemetry()
        self.loop = PlannerLoop(
            self.sensors, self.leadership, applier, writer, telemetry, settings, clock, recorder
        )
        self._app = make_app(self.loop, self.sensors, telemetry, settings, clock, recorder)

    def _wake(self) -> None:
        self.loop.wake()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; gives the Lease up at the end."""
        stop = asyncio.Event()
        _handle_signals(stop)
        await self._client.connection()
        runner = web.AppRunner(self._app, access_log=None)
        await runner.setup()
        host = os.environ.get("POD_IP", "127.0.0.1")
        await web.TCPSite(runner, host, self._settings.admin_port).start()
        work: list[asyncio.Task[None]] = [
            asyncio.create_task(self.sensors.run(), name="sensors"),
            asyncio.create_task(self.leadership.run(), name="leadership"),
            asyncio.create_task(self.loop.run(), name="planner"),
            asyncio.create_task(self._watching.run(), name="events"),
        ]
        work.append(asyncio.create_task(_wait(stop), name="stop"))
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self.leadership.release()
        await runner.cleanup()
        self._recorder.close()
        await self._client.close()
        for task in done:
            if task.get_name() != "stop":
                log.error("a part ended by itself", part=task.get_name())
                task.result()

    async def _log_in(self) -> kopf.ConnectionInfo:
        found = await self._client.connection()
        key = found.api_key.get("BearerToken") or found.api_key.get("authorization") or ""
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            token=key.removeprefix("Bearer ") or None,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            expiration=dt.datetime.now(dt.UTC) + TOKEN_LIFE,
        )


def _make_files(settings: RecordingSettings) -> PassFiles | None:
    if settings.directory is None:
        return None
    return PassFiles(Path(settings.directory), settings.keep, settings.max_bytes)


def _handle_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


@click.command()
@click.option(
    "--settings", "settings_file", type=click.Path(path_type=Path), help="YAML file with settings."
)
@click.option("--kubeconfig", help="Kubeconfig file; default: $KUBECONFIG, or the pod's account.")
@click.option("--recordings", help="Directory for recorded passes, before recording.directory.")
def main(settings_file: Path | None, kubeconfig: str | None, recordings: str | None) -> None:
    """Keep every InferencePool inside its SLO."""
    configure_logging()
    try:
        settings = load_settings(settings_file)
        if recordings is not None:
            recording = settings.recording.model_copy(update={"directory": recordings})
            settings = settings.model_copy(update={"recording": recording})
        uvloop.run(Operator(settings, kubeconfig).run())
    except (SettingsError, ConfigException, OSError) as error:
        sys.stderr.write(f"sluice-operator: {error}\n")
        sys.exit(1)
