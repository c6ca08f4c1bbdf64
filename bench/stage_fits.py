"""Whole fits of k-means and PCA against scikit-learn and faiss, on equal cores, in turns."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from made_run import mixture
from record import spread
from stage_jobs import job, write_run
from threadpoolctl import threadpool_limits

from embed_ops import load_model
from embed_ops.spec.stage import KMeansSpec, PcaSpec
from embed_ops.stages.kmeans.nearest import nearest, squared_distances
from embed_ops.stages.kmeans.stage import KMeansStage
from embed_ops.stages.pca import PcaStage
from embed_ops.stages.rounds import fit

Vectors = npt.NDArray[np.float32]


def _inertia(x: Vectors, centers: npt.NDArray[Any]) -> float:
    near = centers.astype(np.float32)
    return float(squared_distances(x, near, nearest(x, near)).mean())


def _scikit(x: Vectors, k: int, seed: int, batch: int) -> npt.NDArray[Any]:
    from sklearn.cluster import MiniBatchKMeans

    found: npt.NDArray[Any] = (
        MiniBatchKMeans(k, batch_size=batch, random_state=seed, compute_labels=False, n_init="auto")
        .fit(x)
        .cluster_centers_
    )
    return found


def _faiss(x: Vectors, k: int, seed: int, threads: int, most: int) -> npt.NDArray[Any]:
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(threads)
    found = faiss.Kmeans(x.shape[1], k, seed=seed + 1, max_points_per_centroid=most)
    found.train(x)
    return np.asarray(found.centroids)


def _others(k: int, threads: int) -> dict[str, Callable[[Vectors, int], npt.NDArray[Any]]]:
    found: dict[str, Callable[[Vectors, int], npt.NDArray[Any]]] = {
        "scikit-learn MiniBatchKMeans, its defaults": lambda x, seed: _scikit(x, k, seed, 1024),
        f"scikit-learn MiniBatchKMeans, batches of {16 * k}": lambda x, seed: _scikit(
            x, k, seed, max(1024, 16 * k)
        ),
    }
    try:
        importlib.import_module("faiss")
    except ImportError:
        return found
    found["faiss Kmeans, its defaults"] = lambda x, seed: _faiss(x, k, seed, threads, 256)
    found["faiss Kmeans, all rows"] = lambda x, seed: _faiss(x, k, seed, threads, 10**9)
    return found


def _timed(call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    began, own = time.perf_counter(), time.process_time()
    found = call()
    return {"wall, s": time.perf_counter() - began, "processor, s": time.process_time() - own}, found


def _spreads(turns: list[dict[str, float]]) -> dict[str, Any]:
    return {name: spread([turn[name] for turn in turns]) for name in turns[0]}


def kmeans(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fit k-means in one process on one core, and as a job on two, each beside the others.

    Another seed in each turn.
    """
    figures: dict[str, Any] = {
        "data": f"mixture of k normal distributions, {options.vectors} x {options.dim}; "
        "another seed in each turn"
    }
    for k in options.k:
        run = write_run(folder / f"run-k{k}", options.vectors, options.dim, k)
        x = mixture(options.dim, k)(0, options.vectors)
        turns: dict[str, list[dict[str, float]]] = {}
        for seed in range(options.repeats):
            for cores in options.cores:
                with threadpool_limits(cores):
                    for name, other in _others(k, cores).items():
                        took, centers = _timed(partial(other, x, seed))
                        turns.setdefault(f"{cores} cores, {name}", []).append(
                            {**took, "inertia a row": _inertia(x, centers)}
                        )
                with threadpool_limits(cores):
                    took, model = _timed(partial(fit, KMeansStage(KMeansSpec(kind="kmeans", k=k)), x, seed))
                name = f"{cores} cores, embed-ops in one process"
                turns.setdefault(name, []).append({**took, "inertia a row": _inertia(x, model.centers)})
                if cores > 1:
                    whole, report = job(run, folder / "out", "kind=kmeans", f"k={k}", f"seed={seed}")
                    took = {
                        "wall, s": report["seconds"]["fit"],
                        "whole command, with all rows assigned, s": whole,
                    }
                    took["inertia a row"] = _inertia(x, load_model(str(folder / "out")).centers)
                    turns.setdefault(f"{cores} cores, embed-ops as a job: fit", []).append(took)
        figures[f"k={k}"] = {name: _spreads(found) for name, found in sorted(turns.items())}
    figures["faiss"] = _version("faiss-cpu")
    figures["scikit-learn"] = _version("scikit-learn")
    return figures


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed: left out"


def _fit_pca(solver: str, kind: str, path: str, dim: int) -> dict[str, float]:
    """Fit PCA in this process; an empty solver stands for embed-ops.

    It is given float32 vectors and computes in a type.
    """
    from sklearn.decomposition import PCA

    x = np.load(path)
    scikit = PCA(dim, svd_solver=solver or "auto", random_state=0)
    stage = PcaStage(PcaSpec(kind="pca", dim=dim, precision=kind))  # type: ignore[arg-type]
    took, _ = _timed(lambda: scikit.fit(x.astype(kind, copy=False)) if solver else fit(stage, x))
    most = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return {**took, "peak resident bytes": int(most.split()[1]) * 1024}


def _in_child(cores: int, *arguments: Any) -> dict[str, float]:
    """Call `_fit_pca` in a fresh process with so many threads."""
    os.environ.update(
        {name: str(cores) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    )
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_fit_pca, *arguments).result()


def pca(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fit PCA beside scikit-learn's solvers, in a process of its own.

    On one core, on two, and as a job on two.
    """
    sides = {
        "embed-ops in one process": ("", "float64"),
        "embed-ops in one process, precision float32": ("", "float32"),
        **{
            f"scikit-learn {solver}": (solver, "float32")
            for solver in ("covariance_eigh", "full", "randomized")
        },
        "scikit-learn covariance_eigh, of float64 vectors": ("covariance_eigh", "float64"),
    }
    figures: dict[str, Any] = {
        "dtype": "float32 vectors, 64 components; embed-ops multiplies in float64 unless said otherwise; "
        "scikit-learn in the type "
        "that it is given: for float64 the vectors are converted first, which is timed"
    }
    for dim in options.pca_dims:
        run = write_run(folder / f"run-d{dim}", options.vectors, dim, 100)
        x = mixture(dim, 100)(0, options.vectors)
        np.save(folder / "x.npy", x)
        turns: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.repeats):
            for cores in options.cores:
                for name, (solver, kind) in sides.items():
                    took = _in_child(cores, solver, kind, str(folder / "x.npy"), 64)
                    turns.setdefault(f"{cores} cores, {name}", []).append(took)
            whole, report = job(run, folder / "out", "kind=pca", "dim=64")
            took = {"wall, s": report["seconds"]["fit"], "whole command, with all rows projected, s": whole}
            turns.setdefault("2 cores, embed-ops as a job: fit", []).append(took)
        figures[f"{options.vectors} x {dim}"] = {
            name: _spreads(found) for name, found in sorted(turns.items())
        }
        with threadpool_limits(1):
            figures[f"{options.vectors} x {dim}"]["relative error of explained variance"] = _errors(x)
    figures["scikit-learn"] = _version("scikit-learn")
    return figures


def _errors(x: Vectors) -> dict[str, float]:
    """Compare explained variances with those of the float64 scatter, near and far from 0."""
    from sklearn.decomposition import PCA

    found = {}
    for offset in (0.0, 100.0):
        moved = x + np.float32(offset)
        exact = PCA(64, svd_solver="covariance_eigh").fit(
            moved.astype(np.float64) - moved.mean(axis=0, dtype=np.float64)
        )
        ours = fit(PcaStage(PcaSpec(kind="pca", dim=64)), moved).explained_variance
        theirs = PCA(64, svd_solver="covariance_eigh").fit(moved).explained_variance_
        for name, variance in (("embed-ops", ours), ("scikit-learn covariance_eigh", theirs)):
            found[f"{name}, offset {offset:.0f}"] = float(
                np.abs(variance / exact.explained_variance_ - 1).max()
            )
    return found
