"""The sections `[[stage]]` of the spec: what each stage is told."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, Tag, model_validator

from embed_ops.schema import RESERVED
from embed_ops.spec.wording import ColumnName, FolderName, Names, Variant, as_tuple, chosen_by, variants

AUTO_OR_COUNT = Literal["auto"] | Annotated[int, Field(gt=0)]


class _Stage(Variant):
    CHOICE = "kind"
    NOUN = "stage"
    GIVES: ClassVar[tuple[str, ...]] = ()
    """Columns that it writes, whatever its fields say."""

    name: FolderName | None = Field(None, description="folder of its run; by default its kind")
    input: str | None = Field(
        None, description='stage to read, or "embed" for the run itself; by default the stage before'
    )
    column: str | None = Field(None, description="vector column to read, where there are several")
    seed: int | None = Field(None, ge=0, description="of everything that draws; by default the spec's")
    gpus_per_worker: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="GPU share of a worker: products of kmeans, neighbors, dedup, pca and whiten run there",
    )

    @property
    def folder(self) -> str:
        """Name of its folder below `stages/`."""
        return self.name or self.word()

    @property
    def copied(self) -> tuple[str, ...]:
        """Columns of its parents that are copied into its files."""
        return ()

    @model_validator(mode="after")
    def _what_is_copied_is_another_column(self) -> Self:
        own = [name for name in self.copied if name in self.GIVES or name in RESERVED]
        if own:
            raise ValueError(f"{own[0]!r} is a column that the stage writes itself: name others to copy")
        if len(set(self.copied)) < len(self.copied):
            raise ValueError("a column is to be copied twice")
        return self


class _Keeping(_Stage):
    keep: Names = Field(
        (), description="columns of the runs below, copied into its files for pandas, DuckDB, Spark"
    )

    @property
    def copied(self) -> tuple[str, ...]:
        """Columns of its parents that are copied into its files."""
        return self.keep


class _VectorStage(_Keeping):
    output: ColumnName | None = Field(
        None, description="name of the new vector column; by default that of the column read"
    )


class NormalizeSpec(_VectorStage):
    """Bring vectors or dimensions to a common scale."""

    kind: Literal["normalize"]
    method: Literal["l2", "standardize"] = Field(
        "l2", description="l2: each row to length 1; standardize: each dimension to mean 0, variance 1"
    )


class PcaSpec(_VectorStage):
    """Project on the principal components."""

    kind: Literal["pca"]
    dim: Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        description="components to keep, or the share of variance that they must explain (0.95)"
    )
    solver: Literal["auto", "covariance", "subspace"] = Field(
        "auto",
        description="covariance: exact, one pass; subspace: block subspace iteration, several passes; "
        "auto: by width",
    )
    precision: Literal["auto", "float64", "float32"] = Field(
        "auto",
        description="of the covariance's products; float32: twice as fast, variances to 1e-7; auto: "
        "float64 up to a width of 1,024",
    )


class WhitenSpec(_VectorStage):
    """Make dimensions uncorrelated, of variance 1."""

    kind: Literal["whiten"]
    method: Literal["pca", "zca"] = Field(
        "pca", description="pca: in the principal axes; zca: turned back to the axes of the input"
    )
    dim: Annotated[int, Field(gt=0)] | None = Field(
        None, description="components to keep (pca only); by default all that have variance"
    )
    epsilon: float = Field(
        0.0, ge=0.0, description="added to every variance, as a share of the largest; 1e-6 tames tiny ones"
    )

    @model_validator(mode="after")
    def _dim(self) -> Self:
        if self.method == "zca" and self.dim is not None:
            raise ValueError("zca keeps the axes of the input: leave dim out")
        return self


class CenterSpec(_VectorStage):
    """Remove the mean and the top components (all-but-the-top, Mu & Viswanath 2018)."""

    kind: Literal["center"]
    components: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="top components to remove beside the mean; auto: a hundredth of the width, at least one",
    )


class ProjectSpec(_VectorStage):
    """Project on random directions, drawn from the seed."""

    kind: Literal["project"]
    dim: int = Field(
        gt=0,
        description="width of the result; 4 ln(n) / (e^2/2 - e^3/3) keeps distances of n rows within a "
        "share e (Johnson-Lindenstrauss)",
    )
    method: Literal["gaussian", "sparse"] = Field(
        "gaussian", description="sparse: mostly zeros (Li et al. 2006), faster to make"
    )


class TruncateSpec(_VectorStage):
    """Keep the first dimensions of Matryoshka vectors."""

    kind: Literal["truncate"]
    dim: int = Field(gt=0, description="dimensions to keep")
    normalize: bool = Field(True, description="bring the shorter vectors to length 1")


class QuantizeSpec(_VectorStage):
    """Store vectors in 8 bits or 1 bit a dimension."""

    kind: Literal["quantize"]
    to: Literal["int8", "uint8", "binary", "ubinary"] = Field(
        "int8", description="code; binary and ubinary have 8 dimensions a byte"
    )
    percentile: float = Field(
        0.0,
        ge=0.0,
        lt=50.0,
        description="share of rows, in percent, to leave out of the range at either end; 0: least to "
        "greatest value",
    )


class KMeansSpec(_Keeping):
    """Cluster by mini-batch k-means."""

    GIVES = ("cluster", "distance", "second_distance")
    kind: Literal["kmeans"]
    k: int = Field(gt=0, description="clusters, at most the number of rows")
    init: Literal["auto", "k-means||", "two-level", "random"] = Field(
        "auto", description="start; auto: k-means|| up to k = 4096, else two-level"
    )
    spherical: bool = Field(False, description="cluster by angle: rows and centres have length 1")
    sample_rows: AUTO_OR_COUNT = Field(
        "auto", description="rows to fit on, chosen by hash; auto: 256 k, at least a million, at most all"
    )
    batch_rows: AUTO_OR_COUNT = Field(
        "auto", description="rows of a step; auto: 4 k, at least 2048, at most the sample"
    )
    max_epochs: int = Field(100, gt=0, description="most passes over the sample")
    patience: int = Field(10, gt=0, description="steps without a better inertia after which it stops")
    tol: float = Field(
        0.0, ge=0.0, description="stop when centres move less than this share of the variance; 0: never"
    )
    polish: int = Field(2, ge=0, description="full Lloyd passes over the sample at the end")
    label: str | None = Field(None, description="kept column to compare clusters with (NMI, ARI, V-measure)")
    by_cluster: bool = Field(False, description="also write rows and vectors in folders by cluster")


class DedupSpec(_Stage):
    """Mark near-duplicates within clusters."""

    GIVES = ("group", "keep")
    kind: Literal["dedup"]
    threshold: float = Field(
        0.95, gt=-1.0, le=1.0, description="least cosine of two rows that are duplicates"
    )
    keep: Literal["first", "central", "outer"] = Field(
        "first",
        description="row of a group to keep: first in order, nearest to its cluster's centre, or "
        "farthest from it",
    )
    keep_columns: Names = Field((), description="as keep of other stages: columns copied into its files")

    @property
    def copied(self) -> tuple[str, ...]:
        """Columns of its parents that are copied into its files."""
        return self.keep_columns


class NeighborsSpec(_Keeping):
    """Find the nearest other rows of the run to each row."""

    GIVES = ("neighbors", "scores")
    kind: Literal["neighbors"]
    k: int = Field(10, gt=0, description="rows to find of each row")
    metric: Literal["cosine", "dot"] = Field("cosine", description="what is greatest for the nearest")
    probe: int | None = Field(
        None,
        gt=0,
        description="search only so many of the nearest clusters of a kmeans run, of which this is a "
        "stage; by default all rows",
    )


class ClassifySpec(_Keeping):
    """Give each row the label that a linear probe of `evaluate` finds, with its probability."""

    GIVES = ("predicted", "probability", "probabilities")
    kind: Literal["classify"]
    probe: str = Field(description="folder that `embed-ops evaluate` has written")


StageSpec = Annotated[
    Annotated[NormalizeSpec, Tag("normalize")]
    | Annotated[PcaSpec, Tag("pca")]
    | Annotated[WhitenSpec, Tag("whiten")]
    | Annotated[CenterSpec, Tag("center")]
    | Annotated[ProjectSpec, Tag("project")]
    | Annotated[TruncateSpec, Tag("truncate")]
    | Annotated[QuantizeSpec, Tag("quantize")]
    | Annotated[KMeansSpec, Tag("kmeans")]
    | Annotated[DedupSpec, Tag("dedup")]
    | Annotated[NeighborsSpec, Tag("neighbors")]
    | Annotated[ClassifySpec, Tag("classify")],
    chosen_by("kind"),
]
"""What a stage may be."""
KINDS: dict[str, type[Any]] = dict(variants(StageSpec))
Stages = Annotated[tuple[StageSpec, ...], BeforeValidator(as_tuple)]
