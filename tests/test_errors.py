"""Bad input gets an exception of torch.nn's kind, with the values that broke the rule in its message.

The tables hold tensors on the CPU, and a test moves what it takes from them. Lengths stay there: values out of range
can only be refused where the host can read them.
"""

import re

import pytest
import torch
from helpers import moved, random
from torch.nn.utils.rnn import pack_sequence

import fusedrnn
from fusedrnn import functional
from fusedrnn.functional import Weights

# --- what torch.nn refuses is refused alike ------------------------------------------------------------------------

CONSTRUCTIONS = {
    "unknown nonlinearity": ("RNN", (4, 7), {"nonlinearity": "gelu"}),
    "projection as wide as the state": ("LSTM", (4, 7), {"proj_size": 7}),
    "negative projection": ("LSTM", (4, 7), {"proj_size": -1}),
    "projection of a GRU": ("GRU", (4, 7), {"proj_size": 3}),
    "projection of an RNN": ("RNN", (4, 7), {"proj_size": 3}),
    "no hidden units": ("GRU", (4, 0), {}),
    "no input": ("GRU", (0, 7), {}),
    "half an input": ("LSTM", (4.5, 7), {}),
    "no layers": ("LSTM", (4, 7), {"num_layers": 0}),
    "dropout above one": ("LSTM", (4, 7), {"num_layers": 2, "dropout": 1.5}),
    "bias no bool": ("LSTM", (4, 7), {"bias": 1}),
    "batch_first no bool": ("LSTM", (4, 7), {"batch_first": 1}),
}


@pytest.mark.parametrize("name, args, kwargs", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_construction_is_refused_as_torch_does(name, args, kwargs):
    if torch.__version__ < torch.torch_version.TorchVersion("2.11"):
        try:
            getattr(torch.nn, name)(*args, **kwargs)
        except (TypeError, ValueError):
            pass
        else:
            pytest.skip("this torch takes it")
    with pytest.raises((TypeError, ValueError)) as theirs:
        getattr(torch.nn, name)(*args, **kwargs)
    with pytest.raises(theirs.type, match=re.escape(str(theirs.value))):
        getattr(fusedrnn, name)(*args, **kwargs)


def pair(*sizes):
    return random(*sizes).float(), random(*sizes).float()


PACKED = pack_sequence([torch.zeros(4, 4), torch.zeros(2, 4)])
# name → module, arguments, what our message must hold
CALLS = {
    "one dimension": ("LSTM", (torch.zeros(4),), ["LSTM", "1D"]),
    "four dimensions": ("GRU", (torch.zeros(1, 2, 3, 4),), ["GRU", "4D"]),
    "input size": ("LSTM", (torch.zeros(5, 3, 6),), ["Expected 4", "got 6"]),
    "unbatched input size": ("RNN", (torch.zeros(5, 6),), ["Expected 4", "got 6"]),
    "packed input size": ("GRU", (PACKED._replace(data=torch.zeros(6, 5)),), ["Expected 4", "got 5"]),
    "integer input": ("LSTM", (torch.zeros(5, 3, 4, dtype=torch.int64),), ["torch.int64", "torch.float32"]),
    "double input": ("GRU", (torch.zeros(5, 3, 4).double(),), ["torch.float64", "torch.float32"]),
    "low precision input": ("RNN", (torch.zeros(5, 3, 4).bfloat16(),), ["torch.bfloat16", "torch.float32"]),
    "packed integers": ("GRU", (PACKED._replace(data=torch.zeros(6, 4).long()),), ["torch.int64", "torch.float32"]),
    "state size": ("GRU", (torch.zeros(5, 3, 4), torch.zeros(1, 3, 8)), ["(1, 3, 7)", "[1, 3, 8]"]),
    "state batch": ("RNN", (torch.zeros(5, 3, 4), torch.zeros(1, 2, 7)), ["(1, 3, 7)", "[1, 2, 7]"]),
    "state layers": ("LSTM", (torch.zeros(5, 3, 4), pair(2, 3, 7)), ["hidden[0]", "(1, 3, 7)", "[2, 3, 7]"]),
    "three states": ("LSTM", (torch.zeros(5, 3, 4), pair(1, 3, 7) + pair(1, 3, 7)[:1]), ["two hidden states", "got 3"]),
    "one state of two": ("LSTMCell", (torch.zeros(3, 4), pair(3, 7)[:1]), ["two hidden states", "got 1"]),
    "cell state size": (
        "LSTM",
        (torch.zeros(5, 3, 4), (torch.zeros(1, 3, 7), torch.zeros(1, 3, 6))),
        ["hidden[1]", "(1, 3, 7)", "[1, 3, 6]"],
    ),
    "state rank": ("GRU", (torch.zeros(5, 3, 4), torch.zeros(3, 7)), ["3-D", "2-D"]),
    "unbatched state rank": ("LSTM", (torch.zeros(5, 4), pair(1, 1, 7)), ["2-D", "3-D"]),
    "packed state batch": ("GRU", (PACKED, torch.zeros(1, 3, 7)), ["(1, 2, 7)", "[1, 3, 7]"]),
    "cell input rank": ("GRUCell", (torch.zeros(2, 3, 4),), ["GRUCell", "3D"]),
    "cell state rank": ("LSTMCell", (torch.zeros(3, 4), pair(1, 3, 7)), ["LSTMCell", "hx[0]", "3D"]),
    "cell input size": ("RNNCell", (torch.zeros(3, 6),), ["6", "4"]),
    "cell state size ": ("GRUCell", (torch.zeros(3, 4), torch.zeros(3, 8)), ["hidden0", "8", "7"]),
    "cell state batch": ("LSTMCell", (torch.zeros(3, 4), pair(2, 7)), ["hidden0", "2", "3"]),
    "unbatched cell, batched state": ("GRUCell", (torch.zeros(4), torch.zeros(3, 7)), ["GRUCell", "1D", "2D"]),
}


@pytest.mark.parametrize("name, args, parts", CALLS.values(), ids=CALLS)
def test_call_is_refused_as_torch_does(name, args, parts, device):
    args = moved(args, device)
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        getattr(torch.nn, name)(4, 7, device=device)(*args)
    with pytest.raises(theirs.type) as ours:
        getattr(fusedrnn, name)(4, 7, device=device)(*args)
    assert_says(ours, parts)


def assert_says(error, parts):
    message = str(error.value)
    assert all(part in message for part in parts), f"{message!r} does not hold all of {parts}"


@pytest.mark.parametrize("name, shape", [("LSTM", (5, 3, 4)), ("LSTMCell", (3, 4))])
def test_states_are_a_pair_of_tensors(name, shape, device):
    module, h = getattr(fusedrnn, name)(4, 7, device=device), torch.zeros(2, 3, 7, device=device)
    of_one = r"must be the pair \(h_0, c_0\); got one tensor of \(2, 3, 7\)"
    for hx, message in [(h, of_one), ((h, None), "got None for c_0")]:
        with pytest.raises(TypeError, match=message):
            module(torch.zeros(shape, device=device), hx)


@pytest.mark.parametrize(
    "name, args, parts",
    [
        ("RNNCell", (torch.zeros(3, 4).long(),), ["Long"]),
        ("LSTMCell", (torch.zeros(3, 4).double(),), ["Double", "Float"]),
        ("GRU", (torch.zeros(5, 3, 4), torch.zeros(1, 3, 7).double()), ["h_0", "Double", "Float"]),
        ("LSTM", (torch.zeros(5, 3, 4), (torch.zeros(1, 3, 7), torch.zeros(1, 3, 7).half())), ["c_0", "Half", "Float"]),
    ],
    ids=["integers to a cell", "doubles to a cell", "h_0", "c_0"],
)
def test_dtypes_are_never_mixed(name, args, parts, device):
    with pytest.raises((ValueError, RuntimeError)) as error:
        getattr(fusedrnn, name)(4, 7, device=device)(*moved(args, device))
    assert_says(error, parts)


@pytest.mark.parametrize("given", ["weights", "h_0", "c_0", "reset"])
def test_devices_are_never_mixed(given, device):
    for other in {"meta", "cpu"} - {device.type}:
        on = {name: other if name == given else device for name in ("weights", "h_0", "c_0", "reset")}
        module = fusedrnn.LSTM(4, 7, device=on["weights"])
        hx = tuple(torch.zeros(1, 3, 7, device=on[name]) for name in ("h_0", "c_0"))
        reset = torch.zeros(5, 3, dtype=torch.bool, device=on["reset"])
        with pytest.raises(RuntimeError) as error:
            module(torch.zeros(5, 3, 4, device=device), hx, reset=reset)
        assert_says(error, [other, device.type])


# --- lengths and resets --------------------------------------------------------------------------------------------

X = torch.zeros(5, 3, 4)
BOOLS = torch.zeros(5, 3, dtype=torch.bool)
PACKED_BOOLS = pack_sequence([BOOLS[:4, 0], BOOLS[:2, 0]])
OPTIONS = {
    "negative length": (X, {"lengths": [3, -1, 2]}, ["lengths", "5", "-1"]),
    "length above T": (X, {"lengths": torch.tensor([3, 6, 2])}, ["lengths", "5", "6"]),
    "unbatched length above T": (X[:, 0], {"lengths": 9}, ["lengths", "5", "9"]),
    "fractional lengths": (X, {"lengths": torch.tensor([3.0, 2.0, 1.0])}, ["lengths", "integers", "torch.float32"]),
    "fractions in a list": (X, {"lengths": [3.5, 2, 1]}, ["lengths", "integers", "torch.float32"]),
    "lengths that are flags": (X, {"lengths": torch.tensor([True] * 3)}, ["lengths", "integers", "torch.bool"]),
    "too few lengths": (X, {"lengths": [3, 2]}, ["(B,) = (3,)", "(2,)"]),
    "a matrix of lengths": (X, {"lengths": torch.tensor([[3, 2, 1]])}, ["(B,) = (3,)", "(1, 3)"]),
    "one length for a batch": (X, {"lengths": 3}, ["(B,) = (3,)", "()"]),
    "several lengths for one": (X[:, 0], {"lengths": [3, 2]}, ["()", "(2,)"]),
    "lengths beside packing": (PACKED, {"lengths": [4, 2]}, ["lengths", "PackedSequence"]),
    "reset of integers": (X, {"reset": BOOLS.int()}, ["torch.bool", "torch.int32"]),
    "numbers for a reset": (X, {"reset": BOOLS.int().tolist()}, ["torch.bool", "torch.int64"]),
    "words for a reset": (X, {"reset": "all"}, ["reset must be a torch.bool tensor", "str"]),
    "a ragged reset": (X, {"reset": [[True], [True, False]]}, ["reset must be a torch.bool tensor", "list"]),
    "words for lengths": (X, {"lengths": "all"}, ["lengths must be a torch.int64 tensor", "str"]),
    "reset transposed": (X, {"reset": BOOLS.t()}, ["(T, B) = (5, 3)", "(3, 5)"]),
    "reset too long": (X, {"reset": torch.zeros(6, 3).bool()}, ["(T, B) = (5, 3)", "(6, 3)"]),
    "reset of a batch for one": (X[:, 0], {"reset": BOOLS}, ["(T,) = (5,)", "(5, 3)"]),
    "reset packed, input not": (X, {"reset": PACKED_BOOLS}, ["reset", "PackedSequence"]),
    "a list for a packed reset": (PACKED, {"reset": [True] * 6}, ["reset", "PackedSequence", "list"]),
    "reset not packed": (PACKED, {"reset": BOOLS}, ["reset", "PackedSequence", "Tensor"]),
    "packed reset too long": (
        PACKED,
        {"reset": PACKED_BOOLS._replace(data=torch.zeros(7).bool())},
        ["(N,) = (6,)", "(7,)"],
    ),
    "packed reset of floats": (
        PACKED,
        {"reset": PACKED_BOOLS._replace(data=torch.zeros(6))},
        ["torch.bool", "torch.float32"],
    ),
    "reset packed otherwise": (
        PACKED,
        {"reset": pack_sequence([BOOLS[:3, 0], BOOLS[:3, 0]])},
        ["[2, 2, 1, 1]", "[2, 2, 2]"],
    ),
    "reset in another order": (
        PACKED,
        {"reset": pack_sequence([BOOLS[:2, 0], BOOLS[:4, 0]], enforce_sorted=False)},
        ["sorted_indices None", "[1, 0]"],
    ),
    "reset and input in different orders": (
        pack_sequence([X[:2, 0], X[:4, 0]], enforce_sorted=False),
        {"reset": pack_sequence([BOOLS[:4, 0], BOOLS[:2, 0]], enforce_sorted=False)},
        ["sorted_indices [1, 0]", "[0, 1]"],
    ),
    "unknown reset_to": (X, {"reset": BOOLS, "reset_to": "ones"}, ["reset_to", "'zeros'", "'hx'", "'ones'"]),
    "unknown reset_to unused": (X, {"reset_to": None}, ["reset_to", "None"]),
}


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("x, given, parts", OPTIONS.values(), ids=OPTIONS)
def test_options_are_checked(name, x, given, parts, device):
    given = {key: value if key == "lengths" else moved(value, device) for key, value in given.items()}
    with pytest.raises(ValueError) as error:
        getattr(fusedrnn, name)(4, 7, device=device)(moved(x, device), **given)
    assert_says(error, parts)


def test_batch_first_speaks_of_its_own_layout(device):
    with pytest.raises(ValueError) as error:
        fusedrnn.GRU(4, 7, batch_first=True, device=device)(X.transpose(0, 1).to(device), reset=BOOLS.to(device))
    assert_says(error, ["(B, T) = (3, 5)", "(5, 3)"])


# --- the functional interface --------------------------------------------------------------------------------------


def weights(G, I=4, H=7, **replaced):
    zeros = Weights(torch.zeros(G * H, I), torch.zeros(G * H, H), torch.zeros(G * H), torch.zeros(G * H))
    return zeros._replace(**replaced)


# name → error, function, its arguments, what else it is given, what the message must hold
FUNCTIONS = {
    "hidden weights": (
        RuntimeError, functional.lstm, (X, [weights(4, w_hh=torch.zeros(28, 6))]), {}, ["w_hh", "[28, 7]", "[28, 6]"],
    ),
    "input weights": (RuntimeError, functional.gru, (X, [weights(3, I=5)]), {}, ["w_ih", "[21, 4]", "[21, 5]"]),
    "biases": (RuntimeError, functional.rnn, (X, [weights(1, b_hh=torch.zeros(6))]), {}, ["b_hh", "[7]", "[6]"]),
    "one bias of two": (RuntimeError, functional.rnn, (X, [weights(1, b_hh=None)]), {}, ["b_hh", "1", "0"]),
    "a projection onto nothing": (
        ValueError, functional.lstm, (X, [weights(4, w_hh=torch.zeros(28, 0), w_hr=torch.zeros(0, 7))]), {}, ["w_hr", "P > 0", "[0, 7]"],
    ),
    "no weights": (ValueError, functional.lstm, (X, []), {}, ["weights", "1", "0"]),
    "half a layer": (
        ValueError, functional.lstm, (X, [weights(4)] * 3), {"bidirectional": True}, ["weights", "2", "3"],
    ),
    "too many states": (
        ValueError, functional.gru, (X, [weights(3), weights(3, I=7)], torch.zeros(3, 3, 7)), {}, ["h_0", "2", "3"],
    ),
    "nonlinearity": (
        ValueError, functional.rnn, (X, [weights(1)]), {"nonlinearity": "gelu"}, ["'gelu'", "'tanh'"],
    ),
    "cell's nonlinearity": (
        ValueError, functional.rnn_cell, (X[0], weights(1)), {"nonlinearity": "gelu"}, ["'gelu'", "'tanh'"],
    ),
    "a cell's projection": (
        ValueError, functional.lstm_cell, (X[0], weights(4, w_hr=torch.zeros(3, 7))), {}, ["projection", "(3, 7)"],
    ),
    "reset_to": (ValueError, functional.lstm, (X, [weights(4)]), {"reset_to": "one"}, ["reset_to", "'one'"]),
    "reset of words": (ValueError, functional.gru, (X, [weights(3)]), {"reset": "all"}, ["a torch.bool tensor", "str"]),
    "reset of numbers": (ValueError, functional.gru, (X, [weights(3)]), {"reset": [[1] * 3] * 5}, ["bool", "Long"]),
    "lengths beside batch_sizes": (
        ValueError,
        functional.gru,
        (PACKED.data, [weights(3)]),
        {"batch_sizes": PACKED.batch_sizes, "lengths": torch.tensor([4, 2])},
        ["lengths", "batch_sizes"],
    ),
    "fractional lengths": (
        ValueError,
        functional.gru,
        (X, [weights(3)]),
        {"lengths": torch.tensor([5.0, 2.5, 1.0])},
        ["lengths", "integers", "Float"],
    ),
    "a step of no rows": (
        ValueError,
        functional.gru,
        (X[:3, 0], [weights(3)]),
        {"batch_sizes": torch.tensor([2, 1, 0])},
        ["batch_sizes", "positive", "0"],
    ),
    "biases of one direction": (
        RuntimeError,
        functional.lstm,
        (X, [weights(4), weights(4, b_ih=None, b_hh=None)]),
        {"bidirectional": True},
        ["each of 2 direction(s)", "b_ih 1, b_hh 1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind, function, args, given, parts", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_check_their_arguments(kind, function, args, given, parts, device):
    with pytest.raises(kind) as error:
        function(*moved(args, device), **given)
    assert_says(error, parts)


def test_what_has_no_truth_is_no_switch(device):
    layer, x, neither = fusedrnn.LSTM(4, 7).to(device), X.to(device), torch.tensor([1, 0])
    with pytest.raises(RuntimeError, match="ambiguous"):
        layer(x, return_cell_states=neither)
    layer.recompute = neither
    with pytest.raises(RuntimeError, match="ambiguous"):
        layer(x)
