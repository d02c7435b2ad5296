"""Run by torchrun: trains every normalizer of the table on all processes; results in FOLDER."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch
from tiny_residual import make_sgd, make_tiny_residual, train_steps

from gnvideo.layers import NORMALIZERS
from gnvideo.training import distributed


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        rank = distributed.get_rank()
        results: dict[str, object] = {}
        for name in NORMALIZERS:
            model = make_tiny_residual(name)
            try:
                # The third forward meets the error of a parameter that the first did not use.
                train_steps(
                    distributed.wrap_model(model), make_sgd(model), range(3), offset=100 * rank
                )
            except RuntimeError:
                results[name] = traceback.format_exc()
            else:
                gradients = {n: p.grad for n, p in model.named_parameters()}
                results[name] = (dict(model.named_parameters()), gradients)
        torch.save(results, folder / f"normalizers_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
