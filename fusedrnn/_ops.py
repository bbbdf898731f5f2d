"""Loads the extension and registers what its operators need from Python: shapes and the second derivative.

Importing this module registers `torch.ops.fusedrnn.layer` and its two companions (csrc/ops/schema.cpp), their fake
functions, which compute only shapes for torch.compile and torch.export, and the autograd formula of the backward.
"""

from __future__ import annotations

import importlib.machinery
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

MEND = "pip install --no-build-isolation --force-reinstall --no-deps -e .   (in fusedrnn's source folder)"


def _load():
    """Import fusedrnn._C, or raise an ImportError with the reason and the command that repairs it."""
    folder = Path(__file__).parent
    if not any((folder / f"_C{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        others = sorted(path.name for path in folder.glob("_C.*.so"))
        found = f"found only {', '.join(others)}, for another Python" if others else "it has not been built"
        raise ImportError(f"fusedrnn's compiled extension is missing ({found}). Build it with: {MEND}")
    try:
        from . import _C
    except ImportError as error:
        raise ImportError(
            f"fusedrnn's compiled extension does not load with torch {torch.__version__}, "
            f"probably because it was built against another torch ({error}). Build it again with: {MEND}"
        ) from error
    built = _C.build_info()["torch"]
    if built != torch.__version__:
        raise ImportError(
            f"fusedrnn's compiled extension was built against torch {built}, but torch {torch.__version__} is "
            f"installed. Build it again with: {MEND}"
        )
    return _C


_C = _load()


def build_info() -> dict[str, str]:
    """Return what the extension was built with and for: torch, cuda, compiler, cpu kernels, cpu threads."""
    return dict(_C.build_info())


def release_scratch() -> int:
    """Free the working memory that the calling thread keeps for its next call on the CPU, up to 16 MiB.

    Returns the number of bytes freed, which may be 0. The next call allocates it again.
    """
    return _C.release_scratch()


direct = _C.direct
autocast = direct("autocast", None)
CELLS = {cell["name"]: cell for cell in _C.cells()}


# --- shapes -----------------------------------------------------------------------------------------------------


def _arithmetic(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _kept(x: Tensor) -> torch.dtype:
    """What the gates are kept in for the backward: as the input is, to halve what has to be moved, where kernels can."""
    if x.is_cuda or (x.dtype == torch.bfloat16 and _C.multiplies_bfloat16()):
        return x.dtype
    return _arithmetic(x)


def roles(weights, directions):
    """Five lists of a layer's one, as the op takes it: w_ih, w_hh, b_ih, b_hh, w_hr, of each direction one or none."""
    w_ih, w_hh, *others = (weights[i : i + directions] for i in range(0, len(weights), directions))
    w_hr = others.pop() if len(others) % 2 else []
    return w_ih, w_hh, *(others or ([], [])), w_hr


def _check_devices(x, h_0, c_0, reset, weights, directions):
    names = ("h_0", "c_0", "reset", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr")
    for name, tensors in zip(names, ([h_0], [c_0], [reset], *roles(weights, directions)), strict=True):
        for t in tensors:
            if t is not None and t.device != x.device:
                raise RuntimeError(f"{name} is on {t.device} but x is on {x.device}")


def _outputs(x, h_0, weights, batch_sizes, cell, reverse, c_kept):
    """y, h_n, c_n, c without contents."""
    D, H = len(reverse), _hidden(weights, cell)
    *_, w_hr = roles(weights, D)
    P = w_hr[0].shape[0] if w_hr else H
    if batch_sizes is None:
        B = x.shape[1]
    elif h_0 is not None:
        B = h_0.shape[1]
    elif x.is_meta and type(batch_sizes) is Tensor:
        B = int(batch_sizes[0]) if len(batch_sizes) else 0
    else:  # the number of sequences is a value inside batch_sizes, which nobody knows while a graph is traced
        B = torch.library.get_ctx().new_dynamic_size()
    has_c = CELLS[cell]["states"] > 1
    return (
        x.new_empty((*x.shape[:-1], D * P)),
        x.new_empty((D, B, P)),
        x.new_empty((D, B, H) if has_c else (0,)),
        x.new_empty((*x.shape[:-1], D * H) if has_c and c_kept else (0,), dtype=_arithmetic(x)),
    )


def _hidden(weights, cell):
    return weights[0].shape[0] // CELLS[cell]["gates"]


@torch.library.register_fake("fusedrnn::layer")
def _(
    x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, reset_to_hx, cell_states, recompute=False
):  # fmt: skip
    _check_devices(x, h_0, c_0, reset, weights, len(reverse))
    return _outputs(x, h_0, weights, batch_sizes, cell, reverse, cell_states)


@torch.library.register_fake("fusedrnn::layer_forward")
def _(x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, reset_to_hx, save, cell_states):
    _check_devices(x, h_0, c_0, reset, weights, len(reverse))
    outputs = _outputs(x, h_0, weights, batch_sizes, cell, reverse, save or cell_states)
    info, H, (*_, w_hr) = CELLS[cell], _hidden(weights, cell), roles(weights, len(reverse))
    if save and (info["saved"] or w_hr):
        rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
        width = (max(info["gates"], info["saved"]) + bool(w_hr)) * H
        saved = x.new_empty((rows, len(reverse), width), dtype=_kept(x))
    else:
        saved = x.new_empty((0,), dtype=_kept(x))
    return *outputs, saved


@torch.library.register_fake("fusedrnn::layer_backward_")
@torch.library.register_fake("fusedrnn::layer_backward")
def _(
    d_y, d_h_n, d_c_n, d_c, x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, reset_to_hx, y, c, saved,
    needs,
):  # fmt: skip
    return [
        x.new_empty(t.shape if t is not None and need else (0,))
        for t, need in _each([x, h_0, c_0, weights], len(reverse), needs)
    ]


def _each(inputs, directions, needs):
    """Every tensor that layer_backward has a result for, and whether it is needed."""
    *single, weights = inputs
    of_role = [*([t] for t in single), *roles(weights, directions)]
    return [(t, need) for tensors, need in zip(of_role, needs, strict=True) for t in tensors]


# --- second derivative ------------------------------------------------------------------------------------------
# The backward is differentiated by replaying the layer step by step in differentiable torch operations: exact, on any
# device, but at the speed of a Python loop. Only create_graph=True, derivatives of higher order, and incoming gradients
# with a forward-mode derivative come here.

_INPUTS = slice(4, 8)  # x, h_0, c_0 and the weights, among the arguments of layer_backward


def _first_derivative(d_outputs, inputs, rest, again):
    """layer_backward in torch's own operations: of each of its results, the input, whether it is needed, and it or None.

    inputs: leaves, or what leads on to some; rest: layer_backward's arguments behind them; again: whether the result is to
    be differentiated in turn
    """
    from . import reference

    batch_sizes, lengths, reset, cell, reverse, reset_to_hx, _y, _c, _saved, needs = rest
    outputs = reference.layer(*inputs, batch_sizes, lengths, reset, cell, reverse, reset_to_hx, True)
    pairs = [(o, d) for o, d in zip(outputs, d_outputs, strict=True) if d is not None and o.requires_grad]
    results = [(t, need and t is not None) for t, need in _each(inputs, len(reverse), needs)]
    first = torch.autograd.grad(
        [o for o, _ in pairs],
        [t for t, need in results if need],
        [d.to(o.dtype) for o, d in pairs],
        create_graph=again,
        allow_unused=True,
    )
    first = iter(first)
    return [(t, need, next(first) if need else None) for t, need in results]


def _save_for_replay(ctx, inputs, output):
    flat, ctx.places = _flatten(inputs[: _INPUTS.stop])
    ctx.rest = inputs[_INPUTS.stop :]
    ctx.save_for_backward(*flat)


def _flatten(arguments):
    """The tensors among arguments, and how to put them back: None, an index, or a list of indices."""
    flat, places = [], []
    for argument in arguments:
        if argument is None:
            places.append(None)
        elif isinstance(argument, Tensor):
            places.append(len(flat))
            flat.append(argument)
        else:
            places.append([len(flat) + i for i in range(len(argument))])
            flat.extend(argument)
    return flat, places


def _unflatten(flat, places):
    return [
        None if place is None else flat[place] if isinstance(place, int) else [flat[i] for i in place]
        for place in places
    ]


def _leaves_of(tensors, again):
    """What a replay starts from: aliases of what leads on, where the result is to be differentiated in turn (`again`).

    Tied weights stand here twice, and each place has a derivative of its own.
    """
    return [t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_() for t in tensors]


def _replay(ctx, *_grads):
    incoming = _grads[0] if len(_grads) == 1 and isinstance(_grads[0], (list, tuple)) else _grads
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        flat = _leaves_of(ctx.saved_tensors, again)
        build = _unflatten(flat, ctx.places)
        first = _first_derivative(build[:4], build[_INPUTS], ctx.rest, again=True)
        weighted = [
            (derivative, v)
            for (*_, derivative), v in zip(first, incoming, strict=True)
            if derivative is not None and v is not None and derivative.requires_grad
        ]
    second = torch.autograd.grad(
        [d for d, _ in weighted], flat, [v.to(d.dtype) for d, v in weighted], create_graph=again, allow_unused=True
    ) if weighted else [None] * len(flat)  # fmt: skip
    return *_unflatten(second, ctx.places), *[None] * len(ctx.rest)


torch.library.register_autograd("fusedrnn::layer_backward", _replay, setup_context=_save_for_replay)


def _layer_backward_replay(*args):
    """layer_backward where incoming gradients have a forward-mode derivative, which torch's own operations carry on."""
    again, x = torch.is_grad_enabled(), args[_INPUTS.start]
    flat, places = _flatten(args[_INPUTS])
    with torch.enable_grad():
        inputs = _unflatten(_leaves_of(flat, again), places)
        first = _first_derivative(args[:4], inputs, args[_INPUTS.stop :], again)
    nothing = lambda t, need: torch.zeros_like(t) if need else x.new_empty(0)
    return [nothing(t, need) if d is None else d for t, need, d in first]


# --- torch.func -------------------------------------------------------------------------------------------------
# Under its transforms, and for forward-mode derivatives, the op calls layer_replay whenever it has to be
# differentiated: whatever may be done with torch's own operations may be done with that, if not as fast.


def _layer_replay(*args):
    from . import reference

    return reference.layer(*args)


_library = torch.library.Library("fusedrnn", "FRAGMENT")
_library.impl("layer_replay", _layer_replay, "CompositeImplicitAutograd")
_library.impl("layer_backward_replay", _layer_backward_replay, "CompositeImplicitAutograd")


# vmap: a row's result does not depend on the rest of its batch, so samples that share the weights become more rows.


def _more_rows(t, dim, samples, axis):
    """The samples of t, vmapped over `dim`, side by side on `axis`, the batch's; what they share, once for each."""
    if t is None:
        return None
    t = t.unsqueeze(axis).expand(*t.shape[:axis], samples, *t.shape[axis:]) if dim is None else t.movedim(dim, axis)
    return t.flatten(axis, axis + 1)


def _rows(t, dim, axis):
    """The batch's size of a sample of t, vmapped over `dim`, on `axis`."""
    return t.size(axis if dim is None or dim > axis else axis + 1)


def _samples_again(outputs, samples, rows, axis):
    """Outputs of many rows, and vmap's dimensions of them; what is absent of a cell has no batch."""
    there = [t.dim() > axis + 1 for t in outputs]
    apart = [t.unflatten(axis, (samples, rows)) if is_ else t for t, is_ in zip(outputs, there)]
    return tuple(apart), tuple(axis if is_ else None for is_ in there)


def _any_vmapped(dims):
    return any(_any_vmapped(dim) if isinstance(dim, (list, tuple)) else dim is not None for dim in dims)


def _one_by_one(op, info, in_dims, *args):
    """The rule that always holds: run every sample by itself and stack what comes out; of none, one of zeros for its shapes."""

    def sample(i):
        of = lambda t, dim: t if dim is None else t.select(dim, i) if info.batch_size else t.sum(dim, dtype=t.dtype)
        return [
            [of(item, dim) for item, dim in zip(arg, dims, strict=True)]
            if isinstance(arg, (list, tuple)) and isinstance(dims, (list, tuple))
            else of(arg, dims)
            for arg, dims in zip(args, in_dims, strict=True)
        ]  # fmt: skip

    runs = [op(*sample(i)) for i in range(info.batch_size or 1)]
    kind = type(runs[0])  # a tuple, or of an operator that returns Tensor[] a list: torch asks for the same
    outputs = kind(torch.stack(values)[: info.batch_size] for values in zip(*runs, strict=True))
    return outputs, kind([0] * len(outputs))


@torch.library.register_vmap("fusedrnn::layer")
def _(info, in_dims, *args):
    weights, packed = slice(3, 4), args[4] is not None
    if packed or _any_vmapped(in_dims[weights]):
        return _one_by_one(torch.ops.fusedrnn.layer, info, in_dims, *args)
    rows = _rows(args[0], in_dims[0], 1)
    args, axes = list(args), {0: 1, 1: 1, 2: 1, 5: 0, 6: 1}  # of the batch: x, h_0, c_0, lengths and reset
    for i, axis in axes.items():
        args[i] = _more_rows(args[i], in_dims[i], info.batch_size, axis)
    return _samples_again(torch.ops.fusedrnn.layer(*args), info.batch_size, rows, 1)


@torch.library.register_vmap("fusedrnn::layer_backward")
def _(info, in_dims, *args):
    return _one_by_one(torch.ops.fusedrnn.layer_backward, info, in_dims, *args)


@torch.library.register_vmap("fusedrnn::cell")
def _(info, in_dims, *args):
    states, weights = slice(3), slice(3, 7)
    if _any_vmapped(in_dims[weights]):
        return _one_by_one(torch.ops.fusedrnn.cell, info, in_dims, *args)
    more = [_more_rows(t, dim, info.batch_size, 0) for t, dim in zip(args[states], in_dims[states])]
    return _samples_again(torch.ops.fusedrnn.cell(*more, *args[3:]), info.batch_size, _rows(args[0], in_dims[0], 0), 0)


# --- floating-point operations ------------------------------------------------------------------------------------
# For torch.utils.flop_counter, which counts products alone, as it does for torch.nn's layers of a step at a time.


def _products(rows, *lists):
    """Of so many rows with each of these weights, of all directions; from shapes."""
    return 2 * rows * sum(math.prod(w) for weights in lists for w in weights)


@register_flop_formula([torch.ops.fusedrnn.layer, torch.ops.fusedrnn.layer_forward])
def _(x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, *_rest, **_keywords):
    w_ih, w_hh, *_, w_hr = roles(weights, len(reverse))
    return _products(math.prod(x[:-1]), w_ih, w_hh, w_hr)


@register_flop_formula([torch.ops.fusedrnn.layer_backward, torch.ops.fusedrnn.layer_backward_])
def _(
    d_y, d_h_n, d_c_n, d_c, x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, *rest, **_keywords
):  # fmt: skip
    needs, rows, (w_ih, w_hh, *_, w_hr) = rest[-1], math.prod(x[:-1]), roles(weights, len(reverse))
    carried = rows if needs[1] or len(x) < 3 else max(0, rows - x[1])  # nothing asks what reaches the first step's state
    of_weights = [w for w, need in ((w_ih, needs[3]), (w_hh, needs[4]), (w_hr, needs[7])) if need]
    return _products(carried, w_hh) + _products(rows, w_ih if needs[0] else (), w_hr, *of_weights)


# --- batched gradients ------------------------------------------------------------------------------------------
# torch.autograd.grad(is_grads_batched=True) and torch.autograd.functional's vectorize=True carry the batch in tensors
# of an older kind than vmap's, whose rules are kernels of the key Batched.


def _backward_of_each(*args):
    """Run the backward for every gradient of the batch by itself and batch what comes out."""
    legacy = torch._C._functorch.is_legacy_batchedtensor
    level = torch._C._vmapmode_increment_nesting() - 1  # the only way to ask for it
    torch._C._vmapmode_decrement_nesting()

    def gradients(i):  # of the outputs, the one in the batch where there is one
        return [d if d is None or not legacy(d) else torch._remove_batch_dim(d, level, 0, 0)[i] for d in args[:4]]

    if any(legacy(t) for a in args[4:] for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor)):
        raise NotImplementedError("a batch of gradients is supported; a batch of inputs or weights takes torch.func.vmap")
    size = next(torch._remove_batch_dim(d, level, 0, 0).size(0) for d in args[:4] if d is not None and legacy(d))
    runs = [torch.ops.fusedrnn.layer_backward(*gradients(i), *args[4:]) for i in range(size)]
    return [torch._add_batch_dim(torch.stack(values), 0, level) for values in zip(*runs, strict=True)]


_library.impl("layer_backward", _backward_of_each, "Batched")
