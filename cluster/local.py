"""Several Ray nodes on one machine, from a checkout.

For tests, and for trying out what a cluster does.

python -m cluster.local --nodes 3 --cpus 1
"""

import typer

from embed_ops.engine.local_cluster import run

if __name__ == "__main__":
    typer.run(run)
