"""What each program of `peers.py` and `image_peers.py` is.

One peer, run as `PROGRAM NAME FILES MODEL OUT`.

It prints one line of JSON: rows per second from the first batch in to the last batch out, and
seconds of the whole program but Python's own start. The vectors go to OUT (.npy), in the order of
the files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Peer = Callable[[str, str], tuple[float, Vectors]]
"""Embeds files with a model: rows per second, and the vectors."""


def run_peer(peers: Mapping[str, Peer]) -> None:
    """Run the peer that the command line names."""
    name, files, model, out = sys.argv[1:]
    began = time.perf_counter()
    steady, vectors = peers[name](files, model)
    whole = time.perf_counter() - began
    np.save(out, vectors)
    sys.stdout.write("\n" + json.dumps({"steady": steady, "whole": whole}) + "\n")
