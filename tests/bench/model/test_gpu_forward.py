"""A forward pass on a GPU, tested without one: on fake tensors, whose values nobody can read.

A router that reads no values never waits for the GPU; nor does a copy within the device.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.check.cases import Subject, normal, outputs_of, run, subjects
from bench.check.device import HALF_BOUNDS, relative_error
from bench.model import forward_pass
from routers import ROUTERS, Baseline, list_routers

NAMES = [
    name
    for name in list_routers()
    if "." not in name and not issubclass(ROUTERS.get(name).target, Baseline)
]
READING = [
    *("base", "top_p", "relu", "dynmoe", "dselect_k"),
    *("expert_race", "expert_threshold", "diffmoe"),
]
"""Routers whose work depends on the data."""
FIXED = [name for name in NAMES if name not in READING]
DROPLESS = {"capacity_factor": None}
SHORT = {
    "sinkhorn_token_choice": {"iterations": 2},
    "sinkhorn_expert_choice": {"iterations": 2},
    "sparsity_constrained_expert_choice": {"iterations": 6},
}
"""Options with fewer iterations of loops that are unrolled."""


class CopyError(AssertionError):
    """An error for copies between the host and the device."""


class NoCopies(TorchDispatchMode):
    """A context that refuses copies between host and device, for which the host would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        names = {"_to_copy", "copy_", "_copy_from", "to"}
        if func._schema.name.removeprefix("aten::") in names:
            tensors = [each for each in (*args, out) if isinstance(each, torch.Tensor)]
            if len({each.device.type for each in tensors}) > 1:
                raise CopyError(f"{func} from {tensors[0].device} to {out.device}")
        return out


def pass_on_fake_gpu(layer, tokens=16):
    """Run a layer on tensors that claim to be on a GPU; return the output."""
    with FakeTensorMode(), NoCopies():
        for module in layer.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    fake = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
                    module._parameters[name] = torch.nn.Parameter(fake, weight.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(
                        buffer.shape, dtype=buffer.dtype, device="cuda"
                    )
        with forward_pass(layer) as routings:
            y = layer(torch.empty(3, tokens, 8, device="cuda", requires_grad=True))
    return y, routings[0]


def layer_of(name, training, **options):
    return Subject(ROUTERS.get(name), options).layer(dtype=torch.float32).train(training)


# There is no CUDA: autocast warns that it stays off, as it should.
without_cuda = pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")


@without_cuda
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FIXED)
def test_a_router_with_a_fixed_capacity_never_waits_for_the_gpu(name, training):
    y, routing = pass_on_fake_gpu(layer_of(name, training))
    assert (y.device.type, y.shape) == ("cuda", (3, 16, 8))
    assert routing.refused.device.type == "cuda"
    assert ROUTERS.get(name).target.host_reads == ""


@without_cuda
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", READING)
def test_a_router_that_reads_values_says_why(name, training):
    with pytest.raises(DataDependentOutputException):
        pass_on_fake_gpu(layer_of(name, training))
    assert len(ROUTERS.get(name).target.host_reads) > 20


@without_cuda
@pytest.mark.parametrize("name", ["softmax_token_choice", "loss_free", "random"])
def test_a_token_choice_router_without_a_capacity_reads_only_the_longest_queue(name):
    with pytest.raises(DataDependentOutputException):
        pass_on_fake_gpu(layer_of(name, True, **DROPLESS))


@without_cuda
@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_no_setting_makes_a_router_with_a_capacity_wait(name):
    waiting = {"capacity_factor", "eval_capacity_factor", "evaluation", "eval_top_k"}
    for subject in subjects(name, SHORT.get(name, {}), {}):
        if any(subject.options[key] in (None, "threshold") for key in waiting & {*subject.options}):
            continue
        for training in (True, False):
            pass_on_fake_gpu(subject.layer(dtype=torch.float32).train(training))


@without_cuda
def test_positions_beyond_those_that_a_layer_was_built_for_are_copied():
    with pytest.raises(CopyError):
        pass_on_fake_gpu(layer_of("hash", False), tokens=12)


# The GPU code path, run on the CPU: the host reads nothing.


def masking(layer):
    """Make a layer's router mask pairs: one expert for all tokens of a group, and some others."""
    compute = layer.router.compute_logits

    def masked(tokens, context):
        logits = compute(tokens, context).clone()
        logits[0, :, 1] = -math.inf
        logits[1, 3:9, 2] = -math.inf
        return logits

    layer.router.compute_logits = masked
    return layer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", FIXED)
def test_the_code_path_of_a_gpu_gives_the_same_results(name, masked):
    if masked and name in ("hash", "forced", "mixer", "smear", "moce_ir"):
        pytest.skip("it goes by no logits of tokens")
    subject = Subject(ROUTERS.get(name), {})
    for training in (True, False):
        usual, unread = (subject.layer().train(training) for _ in range(2))
        if masked:
            usual, unread = masking(usual), masking(unread)
        x = subject.tokens_of()
        expected = outputs_of(*run(usual, x))
        with pytest.MonkeyPatch.context() as patch:
            for module in ("logits", "mixture", "transport"):
                patch.setattr(f"routers.{module}.readable", lambda tensor: False)
            computed = outputs_of(*run(unread, x))
        torch.testing.assert_close(computed, expected)


# torch's compilers.


def compiled_case(name):
    subject = Subject(ROUTERS.get(name), SHORT.get(name, {}), tokens=8, groups=2)
    return subject.layer(dtype=torch.float32), subject.tokens_of().float()


@pytest.mark.slow
# torch's compiler inspects objects that warn when inspected.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", FIXED)
def test_a_layer_compiles_as_one_graph(name):
    layer, x = compiled_case(name)
    torch._dynamo.reset()
    compiled = torch.compile(layer.train(), fullgraph=True, backend="aot_eager")
    results = []
    for run_layer in (layer, compiled):
        torch.manual_seed(0)
        inputs = x.clone().requires_grad_()
        y = run_layer(inputs)
        y.square().sum().backward()
        weights = {name: weight.grad for name, weight in layer.named_parameters()}
        results.append({"y": y.detach(), "x": inputs.grad, **weights})
        layer.zero_grad()
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_a_layer_can_be_exported(name):
    layer, x = compiled_case(name)
    exported = torch.export.export(layer.eval(), (x,)).module()
    other = normal(*x.shape, seed=5, dtype=x.dtype)
    torch.testing.assert_close(exported(other), layer(other))


# Half precision.


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_under_bfloat16_autocast_is_close_to_float32(name):
    layer = layer_of(name, False)
    subject = Subject(ROUTERS.get(name), {})
    results = []
    for enabled in (False, True):
        x = subject.tokens_of().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled):
            y, routing = run(layer, x)
        y.float().square().sum().backward()
        results.append((y.detach(), x.grad, routing.taken()))
    (y, grad, taken), (half_y, half_grad, half_taken) = results
    assert taken.equal(half_taken)
    assert 2**-12 < relative_error(half_y, y) < HALF_BOUNDS[0]
    assert relative_error(half_grad, grad) < HALF_BOUNDS[1]
