"""Run by torchrun: what two processes train is the same, bit for bit, whatever is kept."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from gnvideo.layers import normalizer_factory
from gnvideo.models import VideoClassifier, initialize, make_model
from gnvideo.models.activation_memory import ACTIVATION_MEMORY, ActivationMemory
from gnvideo.training import distributed

NORMALIZERS = ("batch", "sync_batch", "group")


def compute_gradients(model: VideoClassifier, mode: str) -> list[torch.Tensor]:
    """Returns the gradients of two accumulated batches, and the buffers after them."""
    parallel_model = distributed.wrap_model(model)
    assert isinstance(parallel_model, DistributedDataParallel)
    memory = ActivationMemory(model, mode)
    generator = torch.Generator().manual_seed(distributed.get_rank())

    def run_batch() -> None:
        clips = torch.randn(2, 3, 4, 32, 32, generator=generator)
        with memory.forward_pass():
            logits = parallel_model(clips)
        functional.cross_entropy(logits, torch.tensor([1, 3])).backward()

    with parallel_model.no_sync():
        run_batch()
    run_batch()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [*(g.clone() for g in gradients if g is not None), *model.buffers()]


def main() -> None:
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        for normalizer in NORMALIZERS:
            model = make_model(
                "resnet3d_10",
                5,
                normalizer_factory(normalizer, num_groups=2),
                width=4,
                stem_pool=True,
                dropout_rate=0.0,
            )
            initialize(model, 3, zero_final_gamma=False)
            model.train()
            kept, *others = (
                compute_gradients(copy.deepcopy(model), mode) for mode in ACTIVATION_MEMORY
            )
            for mode, values in zip(ACTIVATION_MEMORY[1:], others, strict=True):
                for actual, expected in zip(values, kept, strict=True):
                    assert torch.equal(actual, expected), (normalizer, mode)


if __name__ == "__main__":
    main()
