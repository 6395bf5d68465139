"""`sluice-node --config node.yaml`: the agent of one emulated node, in the foreground."""

import argparse
import asyncio
import gc
import logging
import sys
from pathlib import Path

from sluice_node.agent import Agent
from sluice_node.config import ConfigError, NodeConfig, load_config
from sluice_node.kubeaccess import KubeAccess, load_access


def main() -> int:
    """Run the agent; return its exit code."""
    parser = argparse.ArgumentParser(prog="sluice-node", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the node's configuration")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        config = load_config(arguments.config)
        access = load_access(config.kubeconfig)
        gc.freeze()
        asyncio.run(_run(config, access))
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"sluice-node: {error}\n")
        return 1
    return 0


async def _run(config: NodeConfig, access: KubeAccess) -> None:
    await Agent(config, access).run()


if __name__ == "__main__":
    sys.exit(main())
