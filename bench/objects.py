"""Listing 100,000 output objects: in an S3 API on loopback, and on a disk. Whose seconds they are: the server's or ours."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from record import spread, write_record

from embed_ops.filesystem import Location, locate, walk

BUCKET = "bench"


def serve(names: list[str], line: Connection) -> None:
    """Run moto's server with so many objects until told to stop; a process of its own, so that its time is not ours."""
    import logging

    import boto3
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1").create_bucket(Bucket=BUCKET)
    backend = s3_backends["123456789012"]["aws"]
    for name in names:
        backend.put_object(BUCKET, f"run/data/{name}", b"x")
    line.send(port)
    line.recv()
    server.stop()


def measure(root: Location, names: list[str], repeats: int) -> dict[str, object]:
    """List so many times: wall seconds, and the processor seconds of this process."""
    wall, own = [], []
    for _ in range(repeats):
        clock, used = time.perf_counter(), sum(os.times()[:2])
        found = {name for name, _ in walk(root, "data")}
        wall.append(time.perf_counter() - clock)
        own.append(sum(os.times()[:2]) - used)
        if len(found) != len(names):
            raise SystemExit(f"{len(found)} objects were listed, {len(names)} are there")
    return {"seconds": spread(wall), "own processor seconds": spread(own)}


def main() -> None:
    """Make the objects, list them, record the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
    names = [f"part={number // 1000:04d}/{number:08d}.jsonl.000000000000.parquet" for number in range(options.objects)]
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(names, theirs))
    server.start()
    port = ours.recv()
    store = measure(locate(f"s3://{BUCKET}/run?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"), names, options.repeats)
    ours.send("stop")
    server.join()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        disk = measure(locate(folder), names, options.repeats)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {"store": store, "disk": disk, "requests": -(-options.objects // 1000), "peak bytes": memory}
    path = write_record("objects", {"objects": options.objects, "server": "moto on loopback"}, figures)
    print(f"{options.objects} objects: store {store}, disk {disk}; record in {path}")


if __name__ == "__main__":
    main()
