"""Watches the pods bound to this node; lists again whenever the watch breaks."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlencode

from sluice_node.kubeapi import ApiError, KubeApi

_LOG = logging.getLogger(__name__)
_PATH = "/api/v1/pods"
_RETRY_SECONDS = 1.0

Change = tuple[str, list[dict[str, Any]]]
"""LISTED with all pods, or CHANGED or DELETED with one."""
LISTED, CHANGED, DELETED = "LISTED", "CHANGED", "DELETED"


async def watch_pods(api: KubeApi, node: str) -> AsyncGenerator[Change, None]:
    """Yield what happens to the node's pods, for ever; begins with LISTED."""
    query = {"fieldSelector": f"spec.nodeName={node}"}
    complained = False
    while True:
        try:
            answer = await api.get(f"{_PATH}?{urlencode(query)}")
            if complained:
                _LOG.info("watching pods again")
            complained = False
            yield LISTED, list(answer.get("items") or ())
            version = answer["metadata"]["resourceVersion"]
            while True:
                async for event in api.watch(_PATH, query, version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] in ("ADDED", "MODIFIED"):
                        yield CHANGED, [event["object"]]
                    elif event["type"] == "DELETED":
                        yield DELETED, [event["object"]]
        except ApiError as error:
            if not complained:
                _LOG.warning("cannot watch pods: %s", error)
            complained = True
            await asyncio.sleep(_RETRY_SECONDS)
