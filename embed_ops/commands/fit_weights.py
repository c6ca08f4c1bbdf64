"""`embed-ops fit-weights SPEC --output DIR`.

How often words stand in a corpus, for weighted means of word vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embed_ops.commands.options import (
    Address,
    Grace,
    LogLevel,
    Progress,
    Words,
    file_and_words,
    limits,
    opener,
)
from embed_ops.commands.running import verb

HELP = (
    "Count the words of the texts of a spec in one pass, with the spec's own tokenisation, and write "
    "weights.json and words.parquet "
    "(word, count, documents, sif, idf) for encoder.weights. SPEC needs [source] and [encoder] with "
    "family = static; other sections are "
    'not read. Then encoder.weighting = "sif" weighs a word by a / (a + p(word)), "tfidf" by ln((1 + n) '
    "/ (1 + df)) + 1; "
    "a word that the corpus does not have has frequency 0.\n\n"
    "Exit codes: 0 done; 2 the spec or the input is unusable; 3 stopped, and nothing was written."
)


@verb
def run(
    words: Words = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="the folder to write")] = Path("weights"),
    address: Address = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
    grace: Grace = "25s",
) -> int:
    """Fit."""
    from embed_ops.analysis.findings import show_weights
    from embed_ops.engine.progress import reporter
    from embed_ops.spec.encoder import AnyEncoder
    from embed_ops.spec.spec import parse_fit
    from embed_ops.training.weights import fit_weights

    source, encoder = parse_fit(*file_and_words(words), AnyEncoder, "encoder")
    with reporter(progress) as shown:
        told = fit_weights(
            source, encoder, output, session=opener(address), reporter=shown, stop=limits(None, grace)["stop"]
        )
    show_weights(str(output), told)
    return 0
