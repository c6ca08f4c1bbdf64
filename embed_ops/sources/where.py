"""The condition `source.where`: SQL that DuckDB evaluates on the columns of records.

DuckDB is a package of the extra `where`, and imported only where there is a condition.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embed_ops.errors import SpecError
from embed_ops.lazy import require

if TYPE_CHECKING:
    import duckdb


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Open DuckDB once in a process.

    That takes 12 ms, and a reader of spans has a condition for each.
    """
    connect = require("duckdb", "where", "source.where").connect
    database: duckdb.DuckDBPyConnection = connect(config={"threads": 1, "enable_external_access": False})
    return database


class ConditionError(Exception):
    """The condition can't be evaluated on these rows; its message is DuckDB's first line."""


class Condition:
    """A condition on one row, as SQL.

    Raises:
        PackageError: DuckDB is not installed.
    """

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._cursor = _database().cursor()

    def check(self, empty: pa.Table, hive: Mapping[str, str | None]) -> None:
        """Try the condition on a table without rows.

        Raises:
            SpecError: it can't be evaluated on these columns, or is no condition on one row.
        """
        try:
            alone = self.holds(empty, hive)
            with _faults():
                kind = self._cursor.sql(f"SELECT ({self._sql}\n) AS chosen FROM rows").types[0]
        except ConditionError as error:
            raise SpecError(f"source.where {self._sql!r}: {error}") from error
        if str(kind) not in ("BOOLEAN", '"NULL"'):
            raise SpecError(f"source.where {self._sql!r}: must be true or false, found {kind}")
        if len(alone):
            raise SpecError(f"source.where {self._sql!r}: must be a condition on one row, found an aggregate")

    def holds(self, table: pa.Table, hive: Mapping[str, str | None]) -> npt.NDArray[np.bool_]:
        """Tell of each row whether the condition holds, (rows,) bool; unknown (NULL) counts as no.

        Args:
            table: the rows.
            hive: values of the columns that folders name, the same for all rows; None is null.

        Raises:
            ConditionError: it can't be evaluated on some row.
        """
        for name, value in hive.items():
            if name not in table.schema.names:
                table = table.append_column(name, pa.array([value] * len(table), pa.string()))
        # The line break ends a comment.
        query = f"SELECT coalesce(CAST(({self._sql}\n) AS BOOLEAN), false) AS chosen FROM rows"
        with _faults():
            self._cursor.register("rows", table)
            answer = self._cursor.sql(query).to_arrow_table()
        chosen = np.asarray(answer.column("chosen").to_numpy(), dtype=np.bool_)
        if len(table) and len(chosen) != len(table):
            raise ConditionError(f"{len(chosen)} answers for {len(table)} rows")
        return chosen


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Turn what DuckDB raises into the first line of what it says.

    Beside its own errors these are those of Python's calls, as for text that is no UTF-8.
    """
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException, RuntimeError, ValueError) as error:
        lines = str(error).splitlines()
        raise ConditionError(lines[0] if lines else type(error).__name__) from error
