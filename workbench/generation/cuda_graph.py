"""A static decoder's step, recorded once and replayed: one launch a token instead of hundreds.

Not run so far: this project has been tested on machines without a GPU. What the tests hold on a CPU is what a recording
needs: that the static step has the dynamic step's numbers, that it never makes a shape from data, and that it reads and
writes the same storage every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workbench.models.llama_decoder import LlamaDecoder

WARM_UP_STEPS = 2
"""Steps made on a stream of their own before a recording: in them libraries choose their kernels and allocate what they
keep."""


class GraphDecoder:
    """A static LlamaDecoder on a CUDA device. Rows are never dropped: their number is part of the recording."""

    drops_rows = False

    def __init__(self, decoder: LlamaDecoder) -> None:
        assert decoder.static
        self._decoder = decoder
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tokens: torch.Tensor
        self._logits: torch.Tensor

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> torch.Tensor:
        """Logits after each prompt, (P x repeats, V), a prompt's rows side by side."""
        return self._decoder.prefill(prompts, repeats)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after one more token a row, (R, V), overwritten by the next step. tokens: (R,)."""
        if self._graph is None:
            self._record(tokens)
        assert self._graph is not None
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._logits

    def select_rows(self, rows: torch.Tensor) -> None:
        """Raises an error: rows cannot be dropped here."""
        raise AssertionError("the rows of a recorded step cannot be dropped")

    def _record(self, tokens: torch.Tensor) -> None:
        self._tokens = tokens.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._decoder.step(self._tokens)
                # What it wrote is overwritten by the first replay, which begins at the same position.
                self._decoder.rewind()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._decoder.step(self._tokens)
