"""FLOPs counted from the operations that torch executes, each priced by one table.

One FLOP is one floating-point operation: an addition, a multiplication, a division, a comparison,
or one elementary function (exp, log, sqrt, tanh, erf, …). A multiply-add is two. A sum of n numbers
counts n, and a dot product of length n counts 2n. Data movement and integer work (indices, masks,
counters) cost nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode


class FlopCounter(TorchDispatchMode):
    """A context that counts the FLOPs of everything that runs in it.

    It sees operations below autograd, so the backward pass, custom autograd functions and the
    iterations of a transport plan are counted as the operations that they run. It works on any
    device, including `meta`.

    Attributes:
        by_kind: FLOPs by kind of work: matmul, attention, softmax, norm, elementwise, reduction,
            sort, random; for a training step also trials, in which some routers try experts.
        uncounted: floating-point operations that are not in the table, with their number of calls;
            they add nothing to the total.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_kind: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All FLOPs so far."""
        return sum(self.by_kind.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # fake tensors query their device
            return func(*args, **kwargs)
        # Without autograd (inference mode), composite operations arrive here undecomposed.
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        price = _price(Call(func, args, kwargs, out))
        if price is None:
            self.uncounted[str(func)] += 1
        elif price[1]:
            self.by_kind[price[0]] += price[1]
        return out


def count_flops(
    function: Callable[..., Tensor], *inputs: Any, backward: bool = False
) -> FlopCounter:
    """Count the FLOPs of one call of a function or module.

    Args:
        function: a function that returns one tensor.
        inputs: arguments of the function.
        backward: also count the backward pass of a gradient of ones; gradients stay in `.grad`.
    """
    with FlopCounter() as counter, torch.set_grad_enabled(backward):
        out = function(*inputs)
        if backward:
            out.backward(torch.ones_like(out))
    return counter


@dataclass(frozen=True)
class Call:
    """One call of an operation and its result."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


Rule = Callable[[Call], float]


def _price(call: Call) -> tuple[str, int] | None:
    """Return the kind of a call's work and its FLOPs; None if the table does not contain it."""
    packet = call.func.overloadpacket
    name = str(packet.__name__).rstrip("_")  # `add` for aten.add.Tensor and for aten.add_.Scalar
    if name in RULES:
        kind, rule = RULES[name]
        counts = kind == "random" or any(t.is_floating_point() for t in _tensors(call.args))
        return kind, int(rule(call)) if counts else 0
    if packet in flop_counter.flop_registry:
        return "matmul", int(_product(call))
    is_view = any(r.alias_info and not r.alias_info.is_write for r in call.func._schema.returns)
    if name in FREE or is_view:
        return "movement", 0
    if not any(t.is_floating_point() for t in _tensors([*call.args, call.out])):
        return "movement", 0
    if torch.Tag.pointwise in call.func.tags:
        return "elementwise", _size(call.out)
    return None


def _size(value: Any) -> int:
    """Return the number of elements of a tensor, or of the first of several tensors."""
    return next((tensor.numel() for tensor in _tensors([value])), 0)


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _grouped_product(call: Call) -> float:
    """Count the product of each row with its group's matrix, or the gradients of such products."""
    return 2 * _size(call.args[0]) * int(call.args[1].shape[-1])


def _per_output(flops: float) -> Rule:
    return lambda call: flops * _size(call.out)


def _per_element(flops: float, argument: int = 0) -> Rule:
    return lambda call: flops * _size(call.args[argument])


def _sort(call: Call) -> float:
    """Count comparisons: n·log₂n per row."""
    x, *rest = call.args
    length = x.shape[call.kwargs.get("dim", rest[0] if rest else -1)] if x.dim() else 1
    return x.numel() * math.ceil(math.log2(max(length, 2)))


def _topk(call: Call) -> float:
    """Count comparisons: n·log₂k per row, with a heap of size k."""
    x, k = call.args[:2]
    return x.numel() * math.ceil(math.log2(max(k, 2)))


def _product(call: Call) -> float:
    """Count 2·m·n·k, by torch's own formulas."""
    formula = flop_counter.flop_registry[call.func.overloadpacket]
    return float(formula(*call.args, **call.kwargs, out_val=call.out))


def _product_and_bias(call: Call) -> float:
    return _product(call) + _size(call.out)


def _matrix_vector(call: Call) -> float:
    return 2 * max(_size(argument) for argument in call.args)


def _convolution(call: Call) -> float:
    x, weight, bias, *_ = call.args
    positions = x.numel() if call.args[6] else call.out.numel()  # transposed or not
    return positions * 2 * weight[0].numel() + (0 if bias is None else call.out.numel())


def _convolution_backward(call: Call) -> float:
    grad, x, weight = call.args[:3]
    of_input, of_weight, of_bias = call.args[10]  # which gradients are requested
    positions = x.numel() if call.args[7] else grad.numel()  # transposed or not
    products = positions * 2 * weight[0].numel() * (of_input + of_weight)
    return products + (grad.numel() if of_bias else 0)


def _scores(query: Tensor, key: Tensor) -> int:
    """Count attention scores: batch · heads · queries · keys."""
    return math.prod(query.shape[:-1]) * key.shape[-2]


def _attention(call: Call) -> float:
    query, key, value = call.args[:3]
    products = flop_counter.sdpa_flop_count(query.shape, key.shape, value.shape)
    return float(products) + 6 * _scores(query, key)  # scale, and softmax


def _attention_backward(call: Call) -> float:
    grad, query, key, value = call.args[:4]
    products = flop_counter.sdpa_backward_flop_count(
        grad.shape, query.shape, key.shape, value.shape
    )
    # Recomputed: scale, subtract, exp. Then the dot of output and gradient, and softmax backward.
    return float(products) + 2 * grad.numel() + 9 * _scores(query, key)


def _accumulated(call: Call) -> float:
    """Count index_put: additions if it accumulates; otherwise it only moves data."""
    accumulate = call.kwargs.get("accumulate", call.args[3] if len(call.args) > 3 else False)
    return _size(call.args[2]) if accumulate else 0


_ATTENTION = [
    "_scaled_dot_product_flash_attention_for_cpu",
    *(f"_scaled_dot_product_{kind}_attention" for kind in ("efficient", "flash", "cudnn")),
]
_ROWS: tuple[tuple[str, str, Rule], ...] = (
    ("matmul", "addmm baddbmm", _product_and_bias),
    ("matmul", "_grouped_mm", _grouped_product),
    ("matmul", "dot vdot mv addmv linalg_vecdot", _matrix_vector),
    ("matmul", "convolution _convolution cudnn_convolution", _convolution),
    ("matmul", "convolution_backward", _convolution_backward),
    ("attention", " ".join(_ATTENTION), _attention),
    ("attention", " ".join(f"{name}_backward" for name in _ATTENTION), _attention_backward),
    # Maximum, subtract, exp, sum, divide.
    ("softmax", "_softmax _log_softmax _safe_softmax", _per_output(5)),
    ("softmax", "_softmax_backward_data _log_softmax_backward_data", _per_output(4)),
    ("softmax", "logsumexp logcumsumexp", _per_element(4)),
    ("norm", "native_layer_norm native_group_norm native_batch_norm", _per_output(8)),
    ("norm", "cudnn_batch_norm _native_batch_norm_legit _batch_norm_with_update", _per_output(8)),
    ("norm", "native_layer_norm_backward native_group_norm_backward", _per_element(13)),
    ("norm", "native_batch_norm_backward cudnn_batch_norm_backward", _per_element(13)),
    ("norm", "_fused_rms_norm", _per_output(4)),
    ("norm", "_fused_rms_norm_backward", _per_element(9)),
    ("elementwise", "gelu", _per_output(5)),
    ("elementwise", "gelu_backward", _per_output(11)),
    ("elementwise", "silu sigmoid", _per_output(4)),
    ("elementwise", "silu_backward", _per_output(7)),
    ("elementwise", "sigmoid_backward tanh_backward softplus", _per_output(3)),
    ("elementwise", "softplus_backward", _per_output(4)),
    ("elementwise", "log_sigmoid_forward log_sigmoid_backward", _per_element(4)),
    ("elementwise", "binary_cross_entropy_with_logits", _per_element(8)),
    ("elementwise", "addcmul addcdiv lerp", _per_output(3)),
    ("elementwise", "clamp native_dropout native_dropout_backward", _per_output(2)),
    ("reduction", "sum mean amax amin max min argmax argmin prod nansum", _per_element(1)),
    ("reduction", "cumsum cumprod cummax cummin", _per_element(1)),
    ("reduction", "var std var_mean std_mean", _per_element(4)),
    ("reduction", "aminmax linalg_vector_norm norm", _per_element(2)),
    ("reduction", "index_add scatter_add", _per_element(1, argument=3)),
    ("reduction", "scatter_reduce", _per_element(1, argument=3)),
    ("reduction", "index_put _unsafe_index_put", _accumulated),
    ("reduction", "embedding_dense_backward nll_loss_backward", _per_element(1)),
    ("reduction", "nll_loss_forward", _per_element(1, argument=1)),
    ("sort", "sort", _sort),
    ("sort", "topk", _topk),
    ("random", "uniform rand rand_like bernoulli", _per_output(1)),
    ("random", "exponential", _per_output(3)),
    ("random", "normal randn randn_like", _per_output(5)),
)
RULES = {name: (kind, rule) for kind, names, rule in _ROWS for name in names.split()}
"""The kind and price of each operation; other elementwise operations cost 1 per output."""

_MOVEMENT = (
    "_local_scalar_dense _reshape_alias _to_copy _unsafe_view arange cat clone constant_pad_nd "
    "copy diag_embed embedding empty empty_like empty_strided eye fill flip full full_like gather "
    "index index_copy index_fill index_select isfinite isinf isnan item lift_fresh masked_fill "
    "masked_select new_empty new_empty_strided new_full new_ones new_zeros nonzero ones ones_like "
    "repeat resize roll scalar_tensor scatter select_backward select_scatter set slice_backward "
    "slice_scatter stack tril triu unfold_backward where zero zeros zeros_like"
)
FREE = frozenset(_MOVEMENT.split())
"""Operations that move or create data."""
