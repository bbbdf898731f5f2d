"""Replace torch.nn's recurrent modules inside a model by ours, and back.

Converting a module only changes its class: parameters, hooks, buffers, training mode and all references to it,
including an optimizer's, stay as they are. This is sound because our classes are subclasses of torch.nn's that add no
attribute to an instance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.nn.utils import parametrize

from . import modules

_OURS = {getattr(torch.nn, name): getattr(modules, name) for name in modules.__all__}
_TORCHS = {ours: torchs for torchs, ours in _OURS.items()}

Model = TypeVar("Model", bound=torch.nn.Module)


def convert(model: Model, *, report: Callable[[str], object] | None = print) -> Model:
    """Turn every torch.nn RNN, LSTM, GRU and cell in a model (or the model itself) into fusedrnn's, in place.

    Subclasses of torch.nn's layers are left alone, and reported.

    model: the model; it is returned
    report: called with one line for each module changed, and for each recurrent module left alone, with the reason; or
        with one line that says that none was found. None for no report

    Raises TypeError if model is not a torch.nn.Module.
    """
    return _swap(model, _OURS, report)


def revert(model: Model, *, report: Callable[[str], object] | None = print) -> Model:
    """Turn every fusedrnn module in a model (or the model itself) back into torch.nn's, in place.

    Arguments and errors are those of `convert`.
    """
    return _swap(model, _TORCHS, report)


def _swap(model, classes, report):
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    found = False
    for name, module in model.named_modules():
        old = _plain_class(module)
        reason = _reason_to_leave(module, old, classes)
        if reason is not None:
            line = f"{_title(old)} left alone: {reason}"
        elif old in classes:
            _set_class(module, classes[old])
            if classes is _TORCHS and isinstance(module, torch.nn.RNNBase):
                module.flatten_parameters()  # as cuDNN wants them, which have been moved since, perhaps
            line = f"{_title(old)} -> {_title(classes[old])}"
        else:
            continue
        found = True
        if report is not None:
            report(f"{name or '(root)'}: {line}")
    if not found and report is not None:
        report(f"no {'torch.nn recurrent' if classes is _OURS else 'fusedrnn'} module found")
    return model


def _plain_class(module: torch.nn.Module) -> type:
    """The module's class, without the one that torch.nn.utils.parametrize derives from it."""
    return type(module).__base__ if parametrize.is_parametrized(module) else type(module)


def _set_class(module: torch.nn.Module, new: type) -> None:
    if parametrize.is_parametrized(module):
        # parametrize made a class for this module, with the parametrized weights as its properties: make one alike.
        own = {key: value for key, value in vars(type(module)).items() if key not in ("__dict__", "__weakref__")}
        new = type(f"Parametrized{new.__name__}", (new,), own)
    module.__class__ = new


def _reason_to_leave(module: torch.nn.Module, kind: type, classes: dict[type, type]) -> str | None:
    """Why a recurrent module is left alone, or None if it is swapped or not recurrent."""
    if kind in classes:
        if "forward" in vars(module):
            return "its forward is replaced on the instance, which a change of class would not reach"
        return None
    if classes is _OURS:
        if isinstance(module, tuple(_TORCHS)):
            return None
        if getattr(module, "original_name", None) in modules.__all__ and isinstance(module, torch.jit.ScriptModule):
            return "it is compiled by TorchScript"
        if kind.__module__.startswith("torch.ao.nn.") and kind.__name__ in modules.__all__:
            return "it is a quantized variant"
    for known in classes:
        if isinstance(module, known):
            return f"it is a subclass of {_title(known)}, whose own code may rely on that class"
    return None


def _title(kind: type) -> str:
    if kind in _OURS:
        return f"torch.nn.{kind.__name__}"
    if kind in _TORCHS:
        return f"fusedrnn.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"
