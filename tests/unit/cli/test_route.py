"""`sluice route explain`: every ready gateway of any cluster is asked, through its API server."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from sluice.cli.errors import CommandError
from sluice.cli.main import sluice

from .fakeapi import serve_objects

PODS = "/api/v1/namespaces/sluice-system/pods"
RECORD = {
    "gateway": "g2",
    "requestId": "abc",
    "pool": "default/chat",
    "requestClass": "batch",
    "objective": {"ttft": 20.0, "tpot": 0.2, "deadline": False},
    "shares": {"maia": 0.6, "gpu": 0.4},
    "waited": 1.5,
    "status": 429,
    "outcome": "too_busy",
    "ttft": None,
    "tpot": None,
    "met": None,
    "attempts": [],
}


def pod(name: str, *, ready: bool = True) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name},
        "status": {"podIP": "10.0.0.1", "conditions": conditions},
    }


def ask(tmp_path: Path, objects: dict[str, Any]) -> str:
    config = tmp_path / "config"
    with serve_objects(objects, config):
        arguments = ["route", "explain", "abc", "--kubeconfig", str(config)]
        result = CliRunner().invoke(sluice, arguments, catch_exceptions=False)
    return result.output


def test_the_gateway_that_remembers_a_request_tells_of_it(tmp_path: Path) -> None:
    objects = {
        PODS: {"items": [pod("g1"), pod("g2"), pod("g3", ready=False)]},
        f"{PODS}/g2:8081/proxy/route/abc": RECORD,
        f"{PODS}/g3:8081/proxy/route/abc": {**RECORD, "gateway": "g3"},
    }
    assert ask(tmp_path, objects).splitlines() == [
        "request abc to default/chat, at gateway g2",
        "  class batch: first token within 20 s, 200 ms a token",
        "  shares: maia 60%, gpu 40%",
        "  waited 1.5 s for a worker",
        "  ended too_busy (429): first token unknown, unknown ms a token; objective not judged",
    ]


def test_a_cluster_without_a_ready_gateway_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No gateway is ready"):
        ask(tmp_path, {PODS: {"items": [pod("g1", ready=False)]}})


def test_a_request_that_nobody_remembers_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"None of the gateways asked \(g1\) remembers"):
        ask(tmp_path, {PODS: {"items": [pod("g1")]}})


@pytest.mark.parametrize("url", ["gateway:8081", "http://[::1", "http://x:port", "http://:1"])
def test_an_address_that_is_none_is_said_so(url: str) -> None:
    arguments = ["route", "explain", "abc", "--url", url]
    with pytest.raises(CommandError, match="is no address of an admin port"):
        CliRunner().invoke(sluice, arguments, catch_exceptions=False)


@pytest.mark.parametrize("record", [[], "text", {}, {"attempts": 1}])
def test_an_answer_that_is_no_gateway_s_is_said_so(
    monkeypatch: pytest.MonkeyPatch, record: object
) -> None:
    body = json.dumps(record).encode()
    response = SimpleNamespace(status=200, read=lambda: body)
    connection = SimpleNamespace(
        request=lambda *_: None, getresponse=lambda: response, close=lambda: None
    )
    monkeypatch.setattr("http.client.HTTPConnection", lambda *_, **__: connection)
    arguments = ["route", "explain", "abc", "--url", "http://127.0.0.1:8081"]
    with pytest.raises(CommandError, match="is no gateway's"):
        CliRunner().invoke(sluice, arguments, catch_exceptions=False)
