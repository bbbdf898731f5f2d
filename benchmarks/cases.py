"""The layers that are compared: torch.nn's, ours with the same weights, peers, and torch.nn's in float64 for the truth.

A contender is verified and timed in passes. "infer" is the forward under no_grad in eval mode; "train-forward" the
forward that keeps what a backward needs; "backward" that backward alone, with the gradients of the input and of every
weight; "step" both together; "graph", on CUDA, the replay of a captured "infer".

Cells take one step from a state that is given. In cases with resets a twentieth of all steps start from zeros, and
torch.nn's layer is called step by step, as a program has to.

Ragged cases start from a padded batch and end with one. In "packed" both layers are given packed rows, and packing and
unpacking count; in "lengths" ours is told the lengths, and torch.nn's runs over the padding and clears it, or over
packed rows where both directions leave it no choice. "fusedrnn-whole" leaves resets and lengths alone and runs whole
rows: what those cost is seen beside it. "torch.nn, TF32 as by default" is what a program has that leaves torch's
settings alone: cuDNN multiplies float32 in TF32.
"""

import copy
import dataclasses
import itertools
import math

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fusedrnn

from . import peers
from .timing import OURS, RECOMPUTE, TF32, WHOLE

LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
FUNCTIONS = {"lstm": 5, "gru": 3, "rnn": 1}  # sigmoid and tanh of a unit and step
PASSES = ("infer", "train-forward", "backward", "step", "graph")
CONTENDERS = ("torch.nn", OURS, RECOMPUTE, WHOLE, *peers.PEERS)  # that may be asked for
RAGGED = ("packed", "lengths")
FORMS = ("", "cell", "reset")
RESETS = 0.05  # of all steps
LARGEST = 2**33  # bytes of all weights, or of all outputs
MOST_COPIES = 512  # of the input, to rotate on CUDA


@dataclasses.dataclass(frozen=True)
class Case:
    """The layer and the batch of one comparison; the input is as wide as the state."""

    cell: str
    B: int
    T: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    dtype: str = "float32"
    ragged: str = ""  # one of RAGGED where rows are of unequal length, drawn evenly from 1 to T
    form: str = ""  # one of FORMS

    def __str__(self):
        name = f"{self.cell} B={self.B} T={self.T} H={self.H}" + f" L={self.layers}" * (self.layers > 1)
        name += " bi" * self.bidirectional + "".join(f" {what}" for what in (self.form, self.ragged) if what)
        return name + f" {self.dtype}" * (self.dtype != "float32")

    @classmethod
    def of(cls, row):
        """The case of a result's row, which may be older than a field."""
        return cls(**{field.name: row[field.name] for field in dataclasses.fields(cls) if field.name in row})

    def sequence_lengths(self):
        """The length of each row, the same in every run."""
        if not self.ragged:
            return torch.full((self.B,), self.T)
        return torch.randint(1, self.T + 1, (self.B,), generator=torch.Generator().manual_seed(self.B * self.T))

    def resets(self):
        """(T, B) bool: where a state starts anew, the same in every run."""
        return torch.rand(self.T, self.B, generator=torch.Generator().manual_seed(self.B * self.T)) < RESETS

    def whole(self):
        """The case of the same layer and data without resets and lengths."""
        return dataclasses.replace(self, ragged="", form="" if self.form == "reset" else self.form)

    def products(self):
        """Floating-point operations of a forward's products: (of the inputs, of the recurrences)."""
        steps, directions, rows = int(self.sequence_lengths().sum()), 1 + self.bidirectional, GATES[self.cell] * self.H
        widths = self.H + (self.layers - 1) * directions * self.H
        return 2 * steps * rows * widths * directions, 2 * steps * rows * self.H * self.layers * directions


class Contender:
    """A layer with its data, to be run in any pass; it is put into training or eval mode when a pass is asked for."""

    def __init__(self, layer, forward, parameters, x, d_y, as_torch=list):
        """`as_torch` brings the gradients of `parameters` into the order and layout of torch.nn's."""
        self.layer, self.forward, self.parameters, self.d_y, self.as_torch = layer, forward, parameters, d_y, as_torch
        leaves = [x.clone().requires_grad_() for _ in range(copies(x))]
        self.inputs = itertools.cycle(leaves)

    def gradients(self, x, y):
        d_x, *others = torch.autograd.grad(y, [x, *self.parameters], self.d_y)
        return [d_x, *self.as_torch(others)]

    def run(self, mode):
        """A function of nothing that runs the pass and returns what it computes, as tensors to be verified."""
        self.layer.train(mode not in ("infer", "graph"))
        if mode == "backward":
            return Backward(self)
        if mode == "graph":
            return self.captured()

        def infer():
            with torch.no_grad():
                return [self.forward(next(self.inputs))]

        def train_forward():
            return [self.forward(next(self.inputs))]

        def step():
            x = next(self.inputs)
            y = self.forward(x)
            return [y, *self.gradients(x, y)]

        return {"infer": infer, "train-forward": train_forward, "step": step}[mode]

    def captured(self):
        x, graph, aside = next(self.inputs).detach(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.no_grad():
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # warm-up, as torch's documentation of CUDA graphs asks for
                for _ in range(3):
                    self.forward(x)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                y = self.forward(x)

        def replay():
            graph.replay()
            return [y]

        return replay


class ByDefault(Contender):
    """One that runs with cuDNN's settings as torch has them by default."""

    allowed = staticmethod(lambda: torch.backends.cudnn.flags(enabled=True, allow_tf32=True))

    def __init__(self, layer, forward, *data):
        super().__init__(layer, self.allowed()(forward), *data)

    def gradients(self, x, y):
        with self.allowed():
            return super().gradients(x, y)


def too_large(case):
    """Why a case is not worth a try, or None."""
    sides = 1 + case.bidirectional
    widths = case.H + (case.layers - 1) * sides * case.H + case.layers * case.H  # of the inputs and of the states
    weights, outputs = sides * GATES[case.cell] * case.H * widths, case.layers * sides * case.B * case.T * case.H
    if 8 * max(weights, outputs) > LARGEST:
        return f"sizes too large: {case} takes more than {LARGEST >> 30} GB in float64"
    return None


def packing(case):
    """{pass: what a packed contender does beside its layer, as a function of nothing}: torch packs and unpacks the rows."""
    lengths, dtype = case.sequence_lengths(), getattr(torch, case.dtype)
    x = torch.zeros(case.T, case.B, case.H, dtype=dtype, requires_grad=True)
    d_y = torch.zeros(case.T, case.B, (1 + case.bidirectional) * case.H, dtype=dtype)
    d_rows = torch.zeros(int(lengths.sum()), case.H, dtype=dtype)
    outputs = torch.zeros(len(d_rows), d_y.shape[2], dtype=dtype, requires_grad=True)

    def forward():
        rows = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return rows.data, pad_packed_sequence(rows._replace(data=outputs), total_length=case.T)[0]

    def step():
        rows, y = forward()
        torch.autograd.grad([y, rows], [outputs, x], [d_y, d_rows])

    return {"infer": torch.no_grad()(forward), "train-forward": forward, "step": step}


class Backward:
    """The backward alone: clocks call `prepare`, which runs the forward, before each call and do not count it."""

    def __init__(self, contender):
        self.contender = contender

    def prepare(self):
        self.x = next(self.contender.inputs)
        self.y = self.contender.forward(self.x)

    def __call__(self):
        y, self.y = self.y, None  # so that what the forward kept is freed when the backward is done
        return self.contender.gradients(self.x, y)


def expected(truth, mode):
    """What a pass should return, of the [y, gradients...] of a whole step."""
    return truth if mode == "step" else truth[1:] if mode == "backward" else truth[:1]


def copies(x):
    """On CUDA as many as outgrow the L2 cache twice, so that no pass finds its input there; on the CPU one."""
    if x.device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(x.device).L2_cache_size
    return min(MOST_COPIES, math.ceil(2 * cache / (x.numel() * x.element_size())))


def contenders(case, device="cpu", names=("torch.nn", OURS)):
    """Return ({name: Contender}, torch.nn's in float64, {name: why it cannot run}), all on the same data.

    The first contender is the one whose rounding errors ours are held against. Weights and data do not depend on the
    dtype, so neither does the truth.
    """
    torch.manual_seed(0)
    dtype, cell = getattr(torch, case.dtype), case.form == "cell"
    name = LAYERS[case.cell]
    if cell:
        true = getattr(torch.nn, f"{name}Cell")(case.H, case.H)
    else:
        true = getattr(torch.nn, name)(case.H, case.H, case.layers, bidirectional=case.bidirectional)
    with torch.no_grad():
        for weight in true.parameters():
            weight.copy_(in_every_dtype(weight))
    theirs = copy.deepcopy(true).to(device, dtype)
    if not cell:
        theirs.flatten_parameters()
    rows = (case.B,) if cell else (case.T, case.B)
    x = in_every_dtype(torch.randn(*rows, case.H))
    d_y = d_whole = in_every_dtype(torch.randn(*rows, (1 + case.bidirectional) * case.H))
    lengths, state = case.sequence_lengths(), in_every_dtype(torch.randn(case.B, case.H))
    there, anew = lengths.to(device), case.resets().to(device)
    if case.ragged:
        padding = (torch.arange(case.T)[:, None] >= lengths)[..., None]
        mask = padding.to(device)
        d_y = d_y.masked_fill(padding, 0)  # no loss looks at the padding

    def packed(layer):
        rows = lambda x_: pack_padded_sequence(x_, lengths, enforce_sorted=False)
        return lambda x_: pad_packed_sequence(layer(rows(x_))[0], total_length=case.T)[0]

    def one_step(layer):
        weight = layer.weight_ih
        h = state.to(weight.device, weight.dtype)
        return (lambda x_: layer(x_, (h, h))[0]) if case.cell == "lstm" else (lambda x_: layer(x_, h))

    def contender(layer, forward, dtype=dtype, d_y=d_y, kind=Contender):
        return kind(layer, forward, list(layer.parameters()), x.to(device, dtype), d_y.to(device, dtype))

    def whole(layer):
        return one_step(layer) if cell else lambda x_: layer(x_)[0]

    def forward(layer):
        if case.form == "reset":
            return stepped(layer, anew) if layer is theirs else lambda x_: layer(x_, reset=anew)[0]
        if case.ragged == "packed":
            return packed(layer)
        if not case.ragged:
            return whole(layer)
        if layer is not theirs:
            return lambda x_: layer(x_, lengths=there)[0]
        if case.bidirectional:  # a reverse direction that starts in the padding computes something else
            return packed(layer)
        return lambda x_: layer(x_)[0].masked_fill(mask, 0)

    found, refused = {"torch.nn": contender(theirs, forward(theirs))}, {}
    for name in (OURS, RECOMPUTE):
        if name in names:
            ours = fusedrnn.convert(copy.deepcopy(theirs), report=None)
            ours.recompute = name == RECOMPUTE
            found[name] = contender(ours, forward(ours))
    if WHOLE in names:
        ours = fusedrnn.convert(copy.deepcopy(theirs), report=None)
        found[WHOLE] = contender(ours, whole(ours), d_y=d_whole)
    if TF32 in names:
        found[TF32] = contender(theirs, forward(theirs), kind=ByDefault)
    for name in names:
        if name in peers.PEERS:
            try:
                parts = peers.build(name, case, theirs)
                found[name] = Contender(*parts[:3], x.to(device, dtype), d_y.to(device, dtype), *parts[3:])
            except peers.Unsupported as reason:
                refused[name] = str(reason)
            except Exception as error:  # a peer that cannot even be set up is a row, not the end
                refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    double = true.to(device, torch.float64)
    truly = stepped(double, anew) if case.form == "reset" else packed(double) if case.ragged else whole(double)
    return found, contender(double, truly, torch.float64), refused


def true_step(case, device="cpu"):
    """What a whole step computes in float64, there and for the CPU."""
    return [tensor.detach().cpu() for tensor in contenders(case, device, ())[1].run("step")()]


def stepped(layer, resets):
    """A forward that calls torch.nn's layer step by step, from zeros where `resets`, (T, B), says so."""

    def forward(x):
        state, steps = None, []
        for x_t, anew in zip(x.split(1), resets[:, None, :, None].unbind(0)):
            if isinstance(state, tuple):
                state = tuple(part.masked_fill(anew, 0) for part in state)
            elif state is not None:
                state = state.masked_fill(anew, 0)
            y_t, state = layer(x_t, state)
            steps.append(y_t)
        return torch.cat(steps)

    return forward


def in_every_dtype(tensor):
    """The nearest values that float16 and bfloat16 hold alike, in float32."""
    return tensor.bfloat16().half().float()
