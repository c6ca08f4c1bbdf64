"""A tiny BERT whose own code does what a test asks for when it meets a row with the mask token: dies, hangs, and so on."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_models

POISON = "[MASK] this row is poison"
"""Docstrings have no mask token. It stands first, since texts are cut."""

CODE = """
import json, os, pathlib, signal, time
import torch
from transformers import BertModel

ORDERS = pathlib.Path("{orders}")
MASK = 4

class FatalBert(BertModel):
    def __init__(self, config, **more):
        super().__init__(config, **more)
        if os.environ.get("FATAL_WHILE_LOADING") or self.orders().get("loading"):
            self.act()

    def orders(self):
        return json.loads(ORDERS.read_text()) if ORDERS.exists() else {{}}

    def act(self):
        orders = self.orders()
        if orders.get("times") is not None:
            # Each death takes a mark away: os.unlink succeeds for one process only.
            for mark in sorted(ORDERS.parent.glob("mark-*")):
                try:
                    mark.unlink()
                    break
                except FileNotFoundError:
                    continue
            else:
                return
        how = orders["how"]
        if how == "hang":
            time.sleep(10_000)
        elif how == "exit":
            os._exit(7)
        elif how == "raise":
            raise ValueError("this model can't")
        else:
            os.kill(os.getpid(), getattr(signal, how))
            time.sleep(60)

    def forward(self, input_ids=None, attention_mask=None, **more):
        orders = self.orders()
        if orders.get("slow"):
            time.sleep(orders["slow"])
        if orders.get("how") and not orders.get("loading") and (orders.get("any") or bool((input_ids == MASK).any())):
            self.act()
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
"""


TOKENIZER = """
import os, pathlib
from tokenizers import normalizers
from transformers import BertTokenizer

class Fatal:
    def normalize(self, text):
        if "poison" in text.normalized and pathlib.Path("{orders}").exists():
            os._exit(9)

class FatalTokenizer(BertTokenizer):
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        backend = self.backend_tokenizer
        backend.normalizer = normalizers.Sequence([normalizers.Normalizer.custom(Fatal()), normalizers.BertNormalizer(lowercase=True)])
"""


class FatalModel:
    """The model's folder, and orders to its code."""

    def __init__(self, folder: Path) -> None:
        self.path = tiny_models.build("bert", folder / "model")
        self._orders = folder / "orders" / "orders.json"
        self._orders.parent.mkdir()
        (self.path / "modeling.py").write_text(CODE.format(orders=self._orders))
        config = json.loads((self.path / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "modeling.FatalBert"}
        (self.path / "config.json").write_text(json.dumps(config))

    def let_the_tokenizer_kill(self) -> None:
        """Give the folder a tokenizer that dies on poison while there are orders."""
        (self.path / "tokenizing.py").write_text(TOKENIZER.format(orders=self._orders))
        config = json.loads((self.path / "tokenizer_config.json").read_text())
        config |= {"auto_map": {"AutoTokenizer": [None, "tokenizing.FatalTokenizer"]}, "tokenizer_class": "FatalTokenizer"}
        (self.path / "tokenizer_config.json").write_text(json.dumps(config))

    def obey_nothing(self) -> None:
        """Take all orders back."""
        self._orders.unlink(missing_ok=True)

    def order(
        self, how: str | None = None, *, times: int | None = None, everywhere: bool = False, loading: bool = False, slow: float = 0
    ) -> None:
        """Say what happens from now on.

        Args:
            how: "hang", "exit", "raise" or the name of a signal; None: nothing.
            times: so often in all; None: each time.
            everywhere: on any row, not only on poison.
            loading: while the model loads, not in a forward pass.
            slow: seconds that every forward pass takes longer.
        """
        for mark in self._orders.parent.glob("mark-*"):
            mark.unlink()
        for number in range(times or 0):
            (self._orders.parent / f"mark-{number}").touch()
        orders = {"how": how, "times": times, "any": everywhere, "loading": loading, "slow": slow}
        temporary = self._orders.with_suffix(".new")
        temporary.write_text(json.dumps(orders))
        temporary.replace(self._orders)
