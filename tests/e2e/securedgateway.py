"""The gateway of the embedded cluster behind TLS and API keys: its users' side and its admin's."""

import base64
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time

import openai
from tests.integration.story import ROOT, wait_until
from tests.unit.gateway.certificates import Authority

NAMESPACE = ("-n", "sluice-system")
GATEWAY = "app.kubernetes.io/name=sluice-gateway"
KEYS, TLS = "sluice-gateway-keys", "sluice-gateway-tls"
LIMITS = {
    "team": (),
    "leaving": (),
    "single": ("--concurrency", "1"),
    "rare": ("--requests-per-minute", "2"),
}
"""The keys that there are from the beginning, and the options that they are made with."""


class SecuredGateway:
    """Gateway, keys and authority; `url` is what its users were told, `ca` the file they trust."""

    def __init__(self, sluice, directory):
        self.sluice, self._directory = sluice, directory
        self._authority = Authority()
        self._address = self.pod()["status"]["podIP"]  # it keeps it
        self.url = f"https://{self._address}:8080"
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(self._authority.pem)
        made = {name: sluice.make_key(name, *options) for name, options in LIMITS.items()}
        self.keys = {name: key for name, (key, _) in made.items()}
        self._entries = {name: entry for name, (_, entry) in made.items()}

    def pod(self):
        """Return the gateway's pod."""
        (pod,) = [
            pod
            for pod in self.sluice.get(*NAMESPACE, "pods", "-l", GATEWAY)["items"]
            if "deletionTimestamp" not in pod["metadata"]
        ]
        return pod

    def install(self):
        """Create the Secrets, and switch the two components on by a kustomization of one's own."""
        self.issue_certificate("first")
        self._put(KEYS, "Opaque", {n: e.encode() for n, e in self._entries.items()})
        overlay, *components = (
            os.path.relpath(ROOT / "manifests" / place, self._directory.resolve())
            for place in (
                "overlays/embedded",
                "components/gateway-tls",
                "components/gateway-api-keys",
            )
        )
        kustomization = {"resources": [overlay], "components": components}
        (self._directory / "kustomization.yaml").write_text(json.dumps(kustomization))
        self._apply(self._directory)

    def remove(self):
        """Put the plain gateway back that other tests ask."""
        self._apply("manifests/overlays/embedded")
        self.sluice.run(*NAMESPACE, "delete", "secret", KEYS, TLS, "--ignore-not-found")

    def _apply(self, path):
        self.sluice.apply(path)
        self.sluice.run(
            *NAMESPACE, "rollout", "status", "deployment/sluice-gateway", "--timeout=80s"
        )

    def issue_certificate(self, name):
        """Put a new certificate and key into the Secret."""
        certificate, key = self._authority.issue(name, address=self._address)
        self._put(TLS, "kubernetes.io/tls", {"tls.crt": certificate, "tls.key": key})

    def change_keys(self, add, remove):
        """Put a new key into the Secret and take one out; return the new one."""
        key, self._entries[add] = self.sluice.make_key(add)
        del self._entries[remove]
        self._put(KEYS, "Opaque", {n: e.encode() for n, e in self._entries.items()})
        return key

    def _put(self, name, kind, data):
        encoded = {field: base64.b64encode(value).decode() for field, value in data.items()}
        self.sluice.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": "sluice-system"},
                "type": kind,
                "data": encoded,
            }
        )

    def trust(self):
        """Return a context that trusts the authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.ca))

    def find_subject(self):
        """Return the common name of the certificate that a new connection is shown."""
        with (
            socket.create_connection((self._address, 8080), timeout=10) as plain,
            self.trust().wrap_socket(plain, server_hostname=self._address) as secured,
        ):
            return secured.getpeercert()["subject"][0][0][1]

    def is_known(self, key):
        """Tell whether the gateway takes a key."""
        http = openai.DefaultHttpxClient(verify=self.trust())
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, http_client=http) as client:
            try:
                client.models.list()
            except openai.AuthenticationError:
                return False
        return True

    def describe_process(self):
        """Return what is another when the gateway was started anew."""
        pod = self.pod()
        return pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]

    def curl(self, path, document=None, *, key=None, more=("--cacert",)):
        """Return curl's command for a path of the API, as a person would write it."""
        command = [shutil.which("curl") or "curl", "-sS", "-N", "--max-time", "60", *more]
        command += [str(self.ca)] if more[-1:] == ("--cacert",) else []
        command += ["-H", f"Authorization: Bearer {key}"] if key else []
        command += ["-d", json.dumps(document)] if document else []
        return [*command, f"{self.url}{path}"]


def run_curl(command):
    """Run curl; return its exit code and what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, done.stdout


def read_events(lines):
    """Return the documents of an event stream's lines, and how many comments and ends it has."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    comments = sum(line.startswith(":") for line in lines)
    return [json.loads(one) for one in data if one != "[DONE]"], comments, data.count("[DONE]")


class Streams:
    """Streams, one after the other, from a thread, until the block ends.

    `ended` has when each began and ended (monotonic) and its text; `failures` what was raised.
    """

    def __init__(self, tell):
        self._tell = tell
        self.ended, self.failures = [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.ended or self.failures, "a first stream has ended")
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(timeout=90)

    def _run(self):
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                text = self._tell()
            except openai.OpenAIError as error:
                self.failures.append(repr(error))
                return
            self.ended.append((begun, time.monotonic(), text))


@contextlib.contextmanager
def start_curl(command):
    """Run curl while the block lasts; yields the process, whose lines can be read as they come."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
