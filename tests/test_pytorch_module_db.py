"""The samples with which PyTorch tests its own recurrent modules, run through ours and compared with torch.nn's.

They come with torch, in an internal module that needs `expecttest` and may move: without it these tests skip.
Tolerances are PyTorch's own: its samples lie in -9 to 9 and saturate the units, so that gradients are what is left of
1 - h**2, small and with errors that are not small beside them.
"""

import pytest
import torch
from helpers import flat, outcome, without_cudnn
from torch.nn.utils.rnn import PackedSequence

import fusedrnn

try:
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
except ImportError as error:
    pytest.skip(f"this torch's own samples do not import: {error}", allow_module_level=True)

INFOS = {info.module_cls: info for info in module_db}
NAMES = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]


def samples(name, device, dtype, training):
    """PyTorch's samples of torch.nn's class of that name, for RNN and GRU with those of packed sequences."""
    info = INFOS[getattr(torch.nn, name)]
    return info.module_inputs_func(
        info, device, dtype, requires_grad=False, training=training, with_packed_sequence=True
    )


def construct(library, name, sample, **kwargs):
    given = sample.constructor_input
    return getattr(library, name)(*given.args, **{**kwargs, **given.kwargs})


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_samples_agree_with_torch_and_their_reference(name, dtype, training, device):
    for sample in samples(name, device, dtype, training):
        args = sample.forward_input.args
        assert not sample.forward_input.kwargs  # all are positional so far
        ours = construct(fusedrnn, name, sample, device=device, dtype=dtype).train(training)
        torchs = construct(torch.nn, name, sample, device=device, dtype=dtype).train(training)
        torchs.load_state_dict(ours.state_dict())
        with without_cudnn():  # which refuses to differentiate in eval mode
            torch.testing.assert_close(outcome(ours, *args), outcome(torchs, *args))
        if not isinstance(args[0], PackedSequence):  # the reference adds a batch dimension, which packed ones have
            torch.testing.assert_close(flat(ours(*args)), flat(sample.reference_fn(torchs, *args)))


@pytest.mark.parametrize("name", NAMES)
def test_bad_samples_raise_what_torch_does(name, device):
    info = INFOS[getattr(torch.nn, name)]
    bad = info.module_error_inputs_func(info, device, torch.float32, requires_grad=False, training=True)
    for sample in bad:
        with pytest.raises(sample.error_type, match=sample.error_regex):
            module = construct(fusedrnn, name, sample.module_error_input, device=device)
            assert sample.error_on is ModuleErrorEnum.FORWARD_ERROR, "the constructor should have raised"
            module(*sample.module_error_input.forward_input.args)
