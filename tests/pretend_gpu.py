"""CPU tensors that claim to be on a GPU, to find code that mixes devices or makes the host wait, without a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map  # torch-private: nested outputs of operators

GPU = torch.device("cuda", 0)
WAITS = {
    "__bool__",
    "__float__",
    "__index__",
    "__int__",
    "bincount",
    "equal",
    "isin",
    "item",
    "nonzero",
    "tolist",
    "unique",
}
"""Functions that make the host wait for their result or its size."""
MOVES = {"__setitem__", "copy_", "cpu", "to"}
"""Functions that accept tensors on different devices."""


class GpuTensor(Tensor):
    """A tensor on the CPU whose device is GPU within `PretendGpu`."""


class PretendGpu(TorchFunctionMode):
    """A mode in which results computed from a GpuTensor, or created on GPU, are GpuTensors.

    Attributes:
        waits: names of the calls that would have made the host wait for the GPU, in order.

    Raises:
        RuntimeError: within the mode, for an operation that mixes a GpuTensor with tensors on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.__name__
        if name == "__get__" and isinstance(args[0], GpuTensor) and func.__self__ in (Tensor.device, Tensor.is_cuda):
            return GPU if func.__self__ is Tensor.device else True
        if name == "_parse_to":  # Module.to only parses its arguments here and moves nothing yet
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(isinstance(tensor, GpuTensor) for tensor in tensors)
        target = _target(name, args, kwargs)
        if on_gpu:
            self._check(name, args, [t for t in tensors if t.dim() and not isinstance(t, GpuTensor)])
        if target is not None and tensors and (target.type == "cuda") != on_gpu and not kwargs.get("non_blocking"):
            self.waits.append(f"to {target.type}")
        args, kwargs = tree_map(_here, args), tree_map(_here, kwargs)
        if kwargs.get("out_dtype") is not None:  # CPUs do not support out_dtype
            args, kwargs = tuple(arg.to(kwargs["out_dtype"]) for arg in args), {}
        with torch._C.DisableTorchFunctionSubclass():  # torch-private: as torch.Tensor's own methods do
            result = func(*args, **kwargs)
        result_on_gpu = on_gpu if target is None else target.type == "cuda"
        return result if name == "copy_" else tree_map(_on_gpu if result_on_gpu else _on_cpu, result)

    def _check(self, name: str, args: Any, others: list[Tensor]) -> None:
        if name == "numpy" or (others and name not in MOVES):
            raise RuntimeError(f"{name} of tensors on the GPU and on the CPU: {[tuple(t.shape) for t in others]}")
        # A scalar value is filled in directly; any other value needs the number of selected rows.
        counted = name == "__getitem__" or (name == "__setitem__" and isinstance(args[2], Tensor))
        masks = [t for t in tree_leaves(args[1:2]) if isinstance(t, Tensor) and t.dtype == torch.bool]
        if name in WAITS or (counted and masks) or (others and name == "__setitem__"):
            self.waits.append(name)


def to_gpu(module: nn.Module) -> nn.Module:
    """Turns the parameters and buffers of a module into GpuTensors."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there = parameter.detach().as_subclass(GpuTensor)
                part._parameters[name] = nn.Parameter(there, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.as_subclass(GpuTensor)
    return module


def _target(name: str, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """The device that the call requests for its result, or None."""
    if name == "cpu":
        return torch.device("cpu")
    requested = [kwargs["device"]] if kwargs.get("device") is not None else []
    if name == "to":
        # The mode is off in here, so every tensor claims to be on the CPU.
        requested += [GPU if isinstance(arg, GpuTensor) else getattr(arg, "device", arg) for arg in args[1:]]
    return next((torch.device(arg) for arg in requested if isinstance(arg, torch.device | str)), None)


def _here(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device | str) and str(value).startswith("cuda") else value


def _on_gpu(value: Any) -> Any:
    return value.as_subclass(GpuTensor) if isinstance(value, Tensor) and not isinstance(value, GpuTensor) else value


def _on_cpu(value: Any) -> Any:
    return value.as_subclass(Tensor) if type(value) is GpuTensor else value
