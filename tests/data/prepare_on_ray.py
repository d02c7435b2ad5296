"""Prepares videos on a Ray cluster of two nodes on this machine, of which one is killed half-way.

    python prepare_on_ray.py LOG LINES ARGUMENT...

The arguments are those of data_tools/preprocess_kinetics.py; the node dies when the file LOG has so
many lines. Leaves with the tool's exit code, or with 99 if it ended before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray import cluster_utils

TOOL = Path(__file__).parents[2] / "data_tools" / "preprocess_kinetics.py"
# The smallest that Ray takes.
NODE: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


def main() -> int:
    # Ray keeps sockets there, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        return run(folder, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])


def run(folder: str, log: Path, num_lines: int, arguments: list[str]) -> int:
    # The head does no work, so that its death is not the one that is tried.
    head = {**NODE, "num_cpus": 0, "temp_dir": folder}
    cluster: Any = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, **NODE) for _ in range(2)]
    engine = ["--engine", "ray", "--ray-address", cluster.address]
    with subprocess.Popen([sys.executable, str(TOOL), *arguments, *engine]) as process:
        while not log.exists() or log.read_bytes().count(b"\n") < num_lines:
            if process.poll() is not None:
                return 99
            time.sleep(0.002)
        if process.poll() is not None:
            return 99
        cluster.remove_node(nodes[0], allow_graceful=False)
        code = process.wait()
    cluster.shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())
