"""What a user would write: `plain.py FILES MODEL OUT`, torch and transformers, batches of 32."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.dataset as pads
import torch
from transformers import AutoModel, AutoTokenizer


def main() -> None:
    """Embed the column `text` of some files."""
    files, folder, out = sys.argv[1:]
    texts = pads.dataset(files, format="parquet").to_table(columns=["text"])["text"].to_pylist()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    with torch.inference_mode():
        for first in range(0, len(texts), 32):
            batch = tokenizer(
                texts[first : first + 32], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
            vectors.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)))
    np.save(out, torch.cat(vectors).numpy())


if __name__ == "__main__":
    main()
