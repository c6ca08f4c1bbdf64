"""`embed-ops vocabulary MODEL --output RUN`: the word vectors of a model as a run."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_ops.commands.options import EXIT_CODES, LogLevel, Progress
from embed_ops.commands.running import verb

HELP = (
    "Write the word vectors of a model as a run directory: a row for each word, with the columns word, "
    "frequency and embedding. "
    "MODEL is a table (GloVe or word2vec text, word2vec binary, fastText .vec, each also .gz; .npy "
    "beside vocab.txt or vocab.json), "
    "or a folder, hub name or object store prefix of model2vec, StaticEmbedding or any transformers "
    "model of texts. "
    "verify, postprocess and Run read what is written like any other run.\n\n"
    f"{EXIT_CODES}"
)


@verb
def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a table of word vectors, or a model")],
    output: Annotated[str, typer.Option(metavar="RUN", help="run directory to write")],
    frequencies: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="folder that fit-weights has written, for the column frequency",
            show_default=False,
        ),
    ] = None,
    progress: Progress = "auto",
    log_level: LogLevel = "warning",
) -> int:
    """Write the vocabulary."""
    from embed_ops.analysis.run_table import show_report
    from embed_ops.embedding.vocabulary import write_vocabulary
    from embed_ops.engine.progress import reporter

    with reporter(progress) as shown:
        done = write_vocabulary(model, output, frequencies=frequencies, reporter=shown)
    show_report(done)
    return done.exit_code
