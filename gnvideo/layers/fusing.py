"""Moves the running statistics of batch norms into the convolutions before them, for inference.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gnvideo.layers.adjusted_conv import AdjustedConv3d
from gnvideo.layers.normalizer import describe_kind
from gnvideo.layers.running_affine import (
    RunningAffine,
    describe_left_alone,
    find_normalizers,
    is_timm_batch_norm,
    read_fixed_affine,
)

_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONV_TYPES: tuple[type[_Conv], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# A subclass with another forward may compute anything, so forwards are compared, not classes.
_CONV_FORWARDS = frozenset(
    {*(conv_type.forward for conv_type in _CONV_TYPES), AdjustedConv3d.forward}
)


@dataclass(frozen=True, slots=True)
class FusionReport:
    """What `fuse_frozen_statistics` did; as text, a line for each number and for what it left.

    Attributes:
        num_fused: Normalizers that are now part of the convolution before them.
        num_computed: Convolutions that computed their weight in every forward and now hold it.
        left_alone: Names of the normalizers that are as they were, by (kind, reason).
    """

    num_fused: int
    num_computed: int
    left_alone: Mapping[tuple[str, str], tuple[str, ...]]

    def __str__(self) -> str:
        lines = [f"{self.num_fused} normalizers fused into the convolution before them"]
        if self.num_computed:
            lines.append(f"{self.num_computed} convolutions with their weight computed once")
        return "\n".join(lines + describe_left_alone(self.left_alone))


def fuse_frozen_statistics(model: nn.Module, inputs: Any) -> tuple[nn.Module, FusionReport]:
    """Returns a copy for inference with its batch norms inside of the convolutions, and a report.

    With slope = weight / sqrt(var + eps) of a batch norm's running statistics, the convolution
    before it gets
        weight_conv * slope   and   (bias_conv - mean) * slope + bias
    and the batch norm's place goes to the activation that it applied, if any. A convolution that
    computes the weight it uses gets the computed one.

    What comes before a batch norm is seen by running the copy on `inputs`: a batch norm is fused if
    it runs once, on the output of a convolution that runs once, and nothing else reads that
    output. So the path through the network must not depend on the values of its input.

    Args:
        model: Any network. It is not changed, and its copy is in evaluation mode.
        inputs: What the model is called with, as `model(inputs)`; the smallest clip will do.

    Source: the weights are those of `torch.nn.utils.fusion`, computed in float64.
    """
    fused = copy.deepcopy(model).eval()
    with torch.no_grad(), _recording(fused) as record:
        outputs = fused(inputs)
    record.reads.update(id(leaf) for leaf in tree_leaves(outputs))

    convs: dict[_Conv, RunningAffine | None] = {
        module: None for module in fused.modules() if isinstance(module, AdjustedConv3d)
    }
    replacements: dict[nn.Module, nn.Module] = {}
    left_alone: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path, module in find_normalizers(fused).items():
        affine = read_fixed_affine(module)
        conv = affine if isinstance(affine, str) else record.find_conv(module)
        if isinstance(affine, str) or isinstance(conv, str):
            left_alone[describe_kind(module), str(conv)].append(path)
            continue
        convs[conv] = affine
        replacements[module] = _make_rest(module)

    num_fused = len(replacements)
    with torch.no_grad():
        replacements |= {conv: _make_plain_conv(conv, affine) for conv, affine in convs.items()}
    for path, module in list(fused.named_modules(remove_duplicate=False)):
        if module in replacements:
            fused.set_submodule(path, replacements[module])
    return fused.eval(), FusionReport(
        num_fused,
        sum(isinstance(conv, AdjustedConv3d) for conv in convs),
        MappingProxyType({key: tuple(paths) for key, paths in left_alone.items()}),
    )


class _Record(TorchDispatchMode):
    """What one forward did: outputs of convolutions, inputs of batch norms, tensors read elsewhere.

    Attributes:
        reads: The id of each tensor that an operator outside of batch norms read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: set[int] = set()
        self._num_calls: Counter[nn.Module] = Counter()
        # By id of the output; the tensor is kept, or its id could become another's.
        self._convs: dict[int, tuple[nn.Module, torch.Tensor]] = {}
        self._inputs: dict[nn.Module, int] = {}
        self._is_in_batch_norm = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self._is_in_batch_norm:
            self.reads.update(
                id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
            )
        return func(*args, **kwargs)

    def leave_conv(self, conv: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._num_calls[conv] += 1
        self._convs[id(output)] = (conv, output)
        # Its id may have been that of a tensor that is gone.
        self.reads.discard(id(output))

    def enter_batch_norm(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._num_calls[module] += 1
        # Two batch norms of one convolution are other uses to each other.
        if id(inputs[0]) in self._inputs.values():
            self.reads.add(id(inputs[0]))
        self._inputs[module] = id(inputs[0])
        self._is_in_batch_norm = True

    def leave_batch_norm(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._is_in_batch_norm = False

    def find_conv(self, module: nn.Module) -> _Conv | str:
        """Returns the convolution that the batch norm can move into, or why there is none."""
        if self._num_calls[module] != 1:
            return f"ran {self._num_calls[module]} times"
        conv, _ = self._convs.get(self._inputs[module], (None, None))
        if not isinstance(conv, _Conv):
            return "does not follow a convolution"
        if self._num_calls[conv] != 1 or self._inputs[module] in self.reads:
            return "follows a convolution that others use"
        return conv


@contextlib.contextmanager
def _recording(model: nn.Module) -> Generator[_Record]:
    """Within it, what runs in the model is recorded."""
    record = _Record()
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            handles: list[torch.utils.hooks.RemovableHandle] = []
            if isinstance(module, _CONV_TYPES) and type(module).forward in _CONV_FORWARDS:
                # First, since hooks of others may read the output.
                handles = [module.register_forward_hook(record.leave_conv, prepend=True)]
            elif isinstance(read_fixed_affine(module), RunningAffine):
                handles = [
                    module.register_forward_pre_hook(record.enter_batch_norm),
                    module.register_forward_hook(record.leave_batch_norm, prepend=True),
                ]
            for handle in handles:
                stack.callback(handle.remove)
        stack.enter_context(record)
        yield record


def _make_plain_conv(conv: _Conv, affine: RunningAffine | None) -> _Conv:
    """Returns the convolution that holds the weight in use, with the affine map after it."""
    weight = conv.compute_weight() if isinstance(conv, AdjustedConv3d) else conv.weight
    fused_weight, fused_bias = weight, conv.bias
    if affine is not None:
        fused_weight, fused_bias = fuse_conv_bn_weights(
            weight.double(),
            None if conv.bias is None else conv.bias.double(),
            affine.mean_C,
            affine.var_C,
            affine.eps,
            affine.weight_C,
            affine.bias_C,
        )
    # The sizes have one type for all three classes, and the three take each its own.
    conv_type: Any = next(t for t in _CONV_TYPES if isinstance(conv, t))
    plain = conv_type(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        fused_bias is not None,
        conv.padding_mode,
        device=weight.device,
        dtype=weight.dtype,
    )
    # Not copied into: its layout (channels_last_3d) is kept.
    plain.weight = nn.Parameter(fused_weight.to(weight.dtype))
    if fused_bias is not None:
        plain.bias = nn.Parameter(fused_bias.to(weight.dtype))
    return plain


def _make_rest(module: nn.Module) -> nn.Module:
    """Returns what a batch norm does after normalizing."""
    if is_timm_batch_norm(module):
        return nn.Sequential(module.get_submodule("drop"), module.get_submodule("act"))
    return nn.ReLU(inplace=True) if getattr(module, "activation", None) == "relu" else nn.Identity()
