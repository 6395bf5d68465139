"""A server that gives fixed objects, and a kubeconfig that names it."""

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serve_objects(objects: Mapping[str, Any], kubeconfig: Path) -> Iterator[str]:
    """Serve bytes as they are and all else as JSON, by path; write a kubeconfig; give the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = objects.get(self.path.split("?")[0])
            body = found if isinstance(found, bytes) else json.dumps(found or {}).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PATCH(self) -> None:
            self.do_GET()  # changes nothing: the answer is what stood there

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        # Looks every 10 ms, not every half second, whether it is to end.
        threading.Thread(target=made.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{made.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        kubeconfig.write_text(json.dumps(config))
        try:
            yield url
        finally:
            made.shutdown()
