"""The stages: kernels against matrix products, fits against other libraries, growth, memory."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from record import write_record
from stage_fits import kmeans, pca
from stage_jobs import linear, memory
from stage_kernels import kernels

PARTS = {"kernels": kernels, "kmeans": kmeans, "pca": pca, "linear": linear, "memory": memory}


def main() -> None:
    """Run the parts that are asked for, a record each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vectors", type=int, default=200_000, help="rows for kmeans and pca")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument(
        "--k", type=int, nargs="+", default=[100, 1000], help="clusters; linear takes the first"
    )
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pca-dims", type=int, nargs="+", default=[384])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[250_000, 500_000, 1_000_000], help="rows for linear"
    )
    parser.add_argument("--memory-rows", type=int, default=4_000_000)
    parser.add_argument("--memory-stages", nargs="+", default=["pca", "kmeans"], choices=["pca", "kmeans"])
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="where memory writes its runs: 12 GB; by default a temporary folder",
    )
    parser.add_argument("--keep", action="store_true", help="keep these runs for another call")
    parser.add_argument("--note", default="", help="kept in the record, such as what else ran on the machine")
    options = parser.parse_args()
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
    }
    for name, part in PARTS.items():
        if options.part in (name, "all"):
            with tempfile.TemporaryDirectory() as folder:
                figures = part(options, Path(folder))
            path = write_record(f"stages-{name}", settings, figures)
            sys.stdout.write(json.dumps(figures, indent=1) + f"\nrecord in {path}\n")


if __name__ == "__main__":
    main()
