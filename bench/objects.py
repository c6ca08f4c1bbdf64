"""Listing 100,000 output objects: from an S3 API on loopback, and from a disk.

Whose seconds they are: the server's or ours.

moto sorts all keys anew for every page, so a second server gives the same pages ready-made: what is
left is the client and loopback.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from record import spread, write_record

from embed_ops.storage.files import Location, locate, walk

BUCKET = "bench"
_PAGE = 1000


def serve(names: list[str], line: Connection) -> None:
    """Run moto's server with so many objects until told to stop.

    A process of its own, so that its time is not ours.
    """
    import logging

    import boto3
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1").create_bucket(
        Bucket=BUCKET
    )
    backend = s3_backends["123456789012"]["aws"]
    for name in names:
        backend.put_object(BUCKET, f"run/data/{name}", b"x")
    line.send(port)
    line.recv()
    server.stop()


def serve_pages(names: list[str], line: Connection) -> None:
    """Answer ListObjectsV2 with pages that were written before."""
    pages = [names[start : start + _PAGE] for start in range(0, len(names), _PAGE)]
    bodies = [_page(page, number, number + 1 < len(pages)) for number, page in enumerate(pages)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            token = parse_qs(urlsplit(self.path).query).get("continuation-token", ["0"])[0]
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(bodies[int(token)])))
            self.end_headers()
            self.wfile.write(bodies[int(token)])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    line.send(server.server_address[1])
    line.recv()
    server.shutdown()


def _page(names: list[str], number: int, more: bool) -> bytes:
    rows = "".join(
        f"<Contents><Key>run/data/{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"9dd4e461268c8034f5c8564e155c67a6"</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>'
        for name in names
    )
    following = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
        f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>'
        f"<Prefix>run/data/</Prefix><KeyCount>{len(names)}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{following}{rows}</ListBucketResult>"
    ).encode()


def from_server(
    serving: Callable[[list[str], Connection], None], names: list[str], repeats: int
) -> dict[str, object]:
    """Start a server, list from it, stop it."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serving, args=(names, theirs))
    server.start()
    address = f"s3://{BUCKET}/run?endpoint_override=127.0.0.1:{ours.recv()}&scheme=http&region=us-east-1"
    try:
        return measure(locate(address), names, repeats)
    finally:
        ours.send("stop")
        server.join()


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
    parser.add_argument("--moto-objects", type=int, default=10_000, help="its time grows with their square")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    names = [
        f"part={number // 1000:04d}/{number:08d}.jsonl.000000000000.parquet"
        for number in range(options.objects)
    ]
    ready = from_server(serve_pages, names, options.repeats)
    moto = from_server(serve, names[: options.moto_objects], 1)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        disk = measure(locate(folder), names, options.repeats)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {
        "ready-made pages": ready,
        "moto": moto,
        "disk": disk,
        "requests": -(-options.objects // 1000),
        "peak bytes": memory,
    }
    path = write_record(
        "objects",
        {
            "objects": options.objects,
            "moto objects": options.moto_objects,
            "servers": "processes of their own, on loopback",
        },
        figures,
    )
    print(f"{options.objects} objects: ready-made pages {ready}, moto {moto}, disk {disk}; record in {path}")


if __name__ == "__main__":
    main()
