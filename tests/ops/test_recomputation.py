"""Recomputation: the same bits with less kept, nothing kept alive, and no stale tensor."""

from __future__ import annotations

import functools
import gc
import threading
import weakref

import pytest
import torch

from gnvideo.layers import BatchNorm3d
from gnvideo.ops import recomputation
from gnvideo.ops.recomputation import (
    Recorder,
    is_recording,
    is_running_again,
    offer_recomputation,
    recompute_in_backward,
    recording,
)


def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.relu(x * factor)


class Kept:
    """The storages that a recorder kept."""

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __call__(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.storages[id(storage)] = storage

    def __contains__(self, tensor: torch.Tensor) -> bool:
        pointers = {storage.data_ptr() for storage in self.storages.values()}
        return tensor.untyped_storage().data_ptr() in pointers


@pytest.fixture
def recorded():
    """A recorder in force, and what it kept."""
    kept = Kept()
    recorder = Recorder(kept)
    with (
        torch.autograd.graph.saved_tensors_hooks(recorder.pack, recorder.unpack),
        recording(recorder),
    ):
        yield kept


def test_what_was_offered_is_not_kept_and_gradients_are_equal(recorded):
    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)

    y = recompute_in_backward(scale, x, 2.5)
    gradients = torch.autograd.grad((y @ weight).square().sum(), (x, weight))

    assert x in recorded
    assert y not in recorded
    plain = torch.autograd.grad((scale(x, 2.5) @ weight).square().sum(), (x, weight))
    for actual, expected in zip(gradients, plain, strict=True):
        assert torch.equal(actual, expected)


def test_recipes_are_made_of_recipes(recorded):
    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)

    first = recompute_in_backward(scale, x, 2.5)
    second = recompute_in_backward(scale, first, 0.5)
    gradients = torch.autograd.grad((second @ weight).sum(), (x, weight))

    assert first not in recorded
    assert second not in recorded
    plain = torch.autograd.grad((scale(scale(x, 2.5), 0.5) @ weight).sum(), (x, weight))
    for actual, expected in zip(gradients, plain, strict=True):
        assert torch.equal(actual, expected)


def test_an_offered_tensor_that_was_changed_is_kept(recorded):
    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)
    y = recompute_in_backward(scale, x, 2.5)
    y += 1

    (gradient,) = torch.autograd.grad((y @ weight).sum(), weight)

    assert y in recorded
    assert torch.equal(gradient, (scale(x, 2.5) + 1).T @ torch.ones(5, 3))


def test_a_part_of_an_offered_tensor_is_kept(recorded):
    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)
    y = recompute_in_backward(scale, x, 2.5)

    (gradient,) = torch.autograd.grad((y[1:] @ weight).sum(), weight)

    assert torch.equal(gradient, scale(x, 2.5)[1:].T @ torch.ones(4, 3))


def test_an_address_that_is_used_again_does_not_bring_back_an_old_offer(recorded):
    del recorded
    recorder = recomputation._state.recorder
    assert recorder is not None
    for index in range(20):
        y = recompute_in_backward(scale, torch.full((64,), float(index), requires_grad=True), 1.0)
        del y
        gc.collect()
        assert not recorder._offers
        # Most likely where y was.
        other = torch.full((64,), -1.0)
        assert recorder.unpack(recorder.pack(other)).data_ptr() == other.data_ptr()


def test_changing_in_place_what_is_kept_itself_is_an_error(recorded):
    # Autograd does not look at what hooks keep.
    x = torch.randn(3, requires_grad=True)
    weight = torch.randn(3, requires_grad=True)
    y = x * weight
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"shape \(3,\) .* changed in place after the forward"):
        y.sum().backward()


def test_changing_running_statistics_that_a_recipe_reads_is_an_error(recorded):
    norm = BatchNorm3d(4, activation="relu").eval()
    y = norm(torch.randn(2, 4, 1, 2, 2, requires_grad=True))
    assert norm.running_mean is not None
    norm.running_mean.add_(1)
    with pytest.raises(RuntimeError, match="changed in place after the forward pass"):
        y.sum().backward()


def test_inference_tensors_are_not_offered(recorded):
    with torch.inference_mode():
        y = recompute_in_backward(scale, torch.ones(2), 2.5)
    assert torch.equal(y, torch.full((2,), 2.5))


def test_contexts_of_two_threads_may_overlap():
    entered, left = threading.Event(), threading.Event()
    seen: list[bool] = []

    def hold():
        with recording(Recorder()):
            entered.set()
            left.wait(10)
            seen.append(is_recording())

    thread = threading.Thread(target=hold)
    with recording(Recorder()):
        thread.start()
        assert entered.wait(10)
    seen.append(is_recording())
    left.set()
    thread.join()

    assert seen == [False, True]
    assert not is_recording()


def test_changing_in_place_what_a_recipe_needs_is_an_error(recorded):
    del recorded
    x = torch.randn(5, 4)
    weight = torch.randn(4, 3, requires_grad=True)
    y = scale(x, 2.5)
    offer_recomputation(y, scale, x, 2.5)
    loss = (y @ weight).sum()
    x += 1

    with pytest.raises(RuntimeError, match=r"shape \(5, 4\) .* was changed in place"):
        loss.backward()


@pytest.mark.parametrize("ending", ["backward", "dropped"])
def test_nothing_outlives_the_graph(recorded, ending):
    del recorded
    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)
    inner = x * 2
    function = functools.partial(scale, factor=2.5)
    loss = (recompute_in_backward(function, inner) @ weight).sum()
    watched = [weakref.ref(inner), weakref.ref(function)]
    del inner, function
    gc.disable()
    try:
        if ending == "backward":
            loss.backward()
        del loss
        # Without the garbage collector: there is no cycle.
        assert [reference() for reference in watched] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("function", [torch.exp, torch.relu_])
def test_an_operator_that_keeps_its_output_does_not_outlive_it(recorded, function):
    del recorded
    y = function(torch.randn(5, 4, requires_grad=True) * 2)
    watched = weakref.ref(y)
    gc.disable()
    try:
        del y
        assert watched() is None
    finally:
        gc.enable()


def test_what_is_offered_within_a_recomputed_function_is_not_taken(recorded):
    """Only the output leaves, and it is made of the function's inputs."""

    def run(x: torch.Tensor) -> torch.Tensor:
        inner = recompute_in_backward(scale, x, 2.5)
        return recompute_in_backward(scale, inner, 0.5)

    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)

    loss = (recompute_in_backward(run, x) @ weight).sum()
    kept = set(recorded.storages)
    gradients = torch.autograd.grad(loss, (x, weight))

    assert kept == {id(tensor.untyped_storage()) for tensor in (x, weight)}
    plain = torch.autograd.grad((scale(scale(x, 2.5), 0.5) @ weight).sum(), (x, weight))
    for actual, expected in zip(gradients, plain, strict=True):
        assert torch.equal(actual, expected)


def test_what_runs_again_is_told_so(recorded):
    del recorded
    seen: list[bool] = []

    def watch(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_running_again())
        return x.sin()

    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 3, requires_grad=True)
    (recompute_in_backward(watch, x) @ weight).sum().backward()

    # Forward; for the weight's gradient; for its own.
    assert seen == [False, True, True]


def test_a_recipe_runs_under_the_autocast_of_its_forward_pass(recorded):
    del recorded
    dtypes: list[torch.dtype] = []

    def multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        product = x @ weight
        dtypes.append(product.dtype)
        return product

    x = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = (recompute_in_backward(multiply, x, weight) @ weight).sum()
    loss.backward()

    assert dtypes == [torch.bfloat16] * 3


def test_offers_are_ignored_without_a_recorder():
    x = torch.randn(5, 4, requires_grad=True)
    offer_recomputation(x.sin(), torch.sin, x)
    with recording(Recorder()), recording(None):
        assert not recomputation.is_recording()
