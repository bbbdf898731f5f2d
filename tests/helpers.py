"""Make pairs of modules with the same weights, and run them to everything that comes out: outputs and gradients."""

import copy
import inspect

import torch
from torch.nn.utils.rnn import PackedSequence

import fusedrnn
from fusedrnn import _ops

# A GPU is of no use to a build that has no kernels for it.
HAS_CUDA = torch.cuda.is_available() and _ops.build_info()["cuda"] != "none"

LAYERS = {
    "rnn_tanh": ("RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}
CELLS = {kind: (name + "Cell", kwargs) for kind, (name, kwargs) in LAYERS.items()}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def make(kind, *args, table=LAYERS, dtype=torch.float64, device="cpu", **kwargs):
    """Return (ours, torch.nn's, torch.nn's in float64), all with the same weights."""
    name, extra = table[kind]
    ours = getattr(fusedrnn, name)(*args, **extra, **kwargs).to(device=device, dtype=dtype)
    torchs = getattr(torch.nn, name)(*args, **extra, **kwargs).to(device=device, dtype=dtype)
    if kind == "rnn_relu" and dtype in (torch.bfloat16, torch.float16):
        _leave_the_kink(ours)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs, copy.deepcopy(torchs).double()


def _leave_the_kink(module):
    """Drive half the units above zero and half below, lest a rounding flip a ReLU and with it a whole gradient."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("bias_hh"):
                weight[::2] += 3
                weight[1::2] -= 3
            if name.startswith("weight_hh"):
                weight *= 0.25  # or else the units above drive some of those below


def random(*shape, dtype=torch.float64, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64).to(device=device, dtype=dtype)


def states(kind, *shape, P=None, dtype=torch.float64, device="cpu"):
    """Return first states of the given shape as the module takes them; P replaces the last size of h_0."""
    h_0 = random(*shape[:-1], P or shape[-1], dtype=dtype, device=device)
    return (h_0, random(*shape, dtype=dtype, device=device)) if kind == "lstm" else h_0


def mapped(change, value):
    """The same nest of tuples and lists with every tensor and PackedSequence in it changed; the rest stays."""
    if isinstance(value, (torch.Tensor, PackedSequence)):
        return change(value)
    if isinstance(value, (tuple, list)):
        items = [mapped(change, item) for item in value]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    return value


def doubled(value):
    """The same tensor, nest of tensors or PackedSequence in float64."""
    return mapped(lambda tensor: tensor.double(), value)


def moved(value, device):
    """The same tensor, nest of tensors or PackedSequence on the device."""
    return mapped(lambda tensor: tensor.to(device), value)


def without_cudnn():
    """A context in which torch.nn on CUDA does what cuDNN does not.

    It then draws dropout from torch's own generator, differentiates in eval mode and takes any strides, as on the CPU.
    """
    return torch.backends.cudnn.flags(enabled=False, allow_tf32=False)


def outcome(module, x, hx=None, used=None, **kwargs):
    """Run a module forward and backward and return what comes out, by name.

    used: names of the outputs that the loss uses; all if omitted
    """
    leaves = {"x": x.data if isinstance(x, PackedSequence) else x}
    leaves.update(zip(("h_0", "c_0"), flat(hx)))
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    x = x._replace(data=leaves["x"]) if isinstance(x, PackedSequence) else leaves["x"]
    if hx is not None:
        hx = (leaves["h_0"], leaves["c_0"]) if "c_0" in leaves else leaves["h_0"]
    module.zero_grad()
    outputs = named(module(x, hx, **kwargs), isinstance(module, torch.nn.RNNCellBase))
    loss(outputs, used).backward()
    leaves.update(module.named_parameters())
    result = {name: value.detach() for name, value in outputs.items()}
    for name, leaf in leaves.items():
        result[f"d_{name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()
    return result


def named(outputs, is_cell=False):
    """Name the outputs of a layer (y, h_n, c_n, c) or of a cell (h_n, c_n)."""
    values = [value.data if isinstance(value, PackedSequence) else value for value in flat(outputs)]
    return dict(zip(("h_n", "c_n") if is_cell else names_of(outputs), values))


def names_of(outputs):
    y, last, *rest = outputs
    return ["y", *(["h_n", "c_n"] if isinstance(last, tuple) else ["h_n"]), *(["c"] if rest else [])]


def flat(value):
    """The tensors (or PackedSequences) of a nest of tuples, in order."""
    if value is None:
        return []
    if isinstance(value, (torch.Tensor, PackedSequence)):
        return [value]
    return [tensor for item in value for tensor in flat(item)]


def loss(outputs, used=None):
    """A weighted sum of the used outputs, each value with a weight of its own, the same for every dtype."""
    total = 0.0
    for name, value in outputs.items():
        if used is None or name in used:
            weights = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).sin().reshape(value.shape)
            total = total + (value * weights.to(value)).sum()
    return total


def layer_arguments(**given):
    """The arguments of the op and of the oracle, in order: those given, weights by role, and for the others an absent value."""
    from fusedrnn import reference

    given["weights"] = [w for role in ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr") for w in given.pop(role, [])]
    absent = {"reverse": [False], "reset_to_hx": False, "cell_states": False}
    names = inspect.signature(reference.layer).parameters
    assert given.keys() <= names.keys(), f"unknown arguments {given.keys() - names.keys()}"
    return [given.get(name, absent.get(name)) for name in names]
