"""Lets torch.compile trace our layers, which it would refuse as subclasses of torch.nn.RNN, LSTM and GRU.

Dynamo refuses those classes by isinstance unless its setting `allow_rnn` is on, because of what torch.nn's forward does;
ours does not. Turning the setting on for good would change how torch.nn's own layers are compiled, so it is on only while
Dynamo wraps a fusedrnn module. Importing Dynamo is slow, so this module waits until torch.compile imports it.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import sys

_BUILDER = "torch._dynamo.variables.builder"


def allow(classes: tuple[type, ...]) -> None:
    """Let Dynamo wrap instances of the given classes, now if it is loaded, else once it is."""
    if _BUILDER in sys.modules:
        _patch(sys.modules[_BUILDER], classes)
    else:
        sys.meta_path.insert(0, _AfterImport(classes))


def _patch(builder, classes) -> None:
    wrap_module = builder.VariableBuilder.wrap_module

    @functools.wraps(wrap_module)
    def wrap_ours(self, value):
        if not isinstance(value, classes):
            return wrap_module(self, value)
        with builder.config.patch(allow_rnn=True):
            return wrap_module(self, value)

    builder.VariableBuilder.wrap_module = wrap_ours


class _AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Runs `_patch` when Dynamo's builder has been imported, and takes no part in any other import."""

    def __init__(self, classes):
        self.classes = classes
        self.loader = None

    def find_spec(self, name, path=None, target=None):
        if name != _BUILDER:
            return None
        sys.meta_path.remove(self)  # the others find it
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        module.__spec__.loader = module.__loader__ = self.loader
        _patch(module, self.classes)
