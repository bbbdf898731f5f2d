"""convert and revert: what is swapped, what is left alone, what stays the very same, and what is said about it."""

import copy
import typing

import pytest
import torch
from helpers import flat, random
from torch.nn.utils import parametrizations, parametrize

import fusedrnn

NAMES = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]


class Translator(torch.nn.Module):
    """Recurrent modules at several depths, one of them under two names."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.LSTM(5, 7, dropout=0.0))
        self.decoder = torch.nn.ModuleDict({"cell": torch.nn.GRUCell(7, 7), "head": torch.nn.Linear(7, 2)})
        self.twin = self.encoder[1]

    def forward(self, x):
        y, _ = self.encoder(x)
        return self.decoder["head"](self.decoder["cell"](y[-1]))


def some(*shape, device):
    return random(*shape, dtype=torch.float32, device=device)


def test_type_checkers_are_told_that_the_type_stays():
    for change in (fusedrnn.convert, fusedrnn.revert):
        hints = typing.get_type_hints(change)
        assert hints["model"] is hints["return"] and hints["model"].__bound__ is torch.nn.Module


def converted(model, change=fusedrnn.convert):
    """Change a model and return what was reported."""
    lines = []
    assert change(model, report=lines.append) is model
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_each_class_is_swapped_and_swapped_back(name, device):
    module = getattr(torch.nn, name)(4, 7).to(device)
    x = some(3, 4, device=device)
    before = module(x)
    assert converted(module) == [f"(root): torch.nn.{name} -> fusedrnn.{name}"]
    assert type(module) is getattr(fusedrnn, name)
    torch.testing.assert_close(module(x), before)
    assert converted(module, fusedrnn.revert) == [f"(root): fusedrnn.{name} -> torch.nn.{name}"]
    assert type(module) is getattr(torch.nn, name)
    assert all(torch.equal(again, first) for again, first in zip(flat(module(x)), flat(before)))


def test_a_model_is_converted_in_place_with_one_line_for_each_module(device):
    model, x = Translator().to(device), some(6, 3, 4, device=device)
    before, linear = model(x), model.encoder[0]
    assert converted(model) == [
        "encoder.1: torch.nn.LSTM -> fusedrnn.LSTM",
        "decoder.cell: torch.nn.GRUCell -> fusedrnn.GRUCell",
    ]
    assert model.twin is model.encoder[1] and type(model.twin) is fusedrnn.LSTM
    assert model.encoder[0] is linear and type(linear) is torch.nn.Linear
    torch.testing.assert_close(model(x), before)
    assert converted(model) == ["no torch.nn recurrent module found"]
    assert len(converted(model, fusedrnn.revert)) == 2
    assert converted(model, fusedrnn.revert) == ["no fusedrnn module found"]
    assert torch.equal(model(x), before)


def test_parameters_hooks_and_modes_stay(device):
    model, calls = Translator().to(device), []
    parameters = {name: id(p) for name, p in model.named_parameters()}
    lstm = model.encoder[1].eval()
    lstm.register_buffer("extra", torch.ones(2, device=device))
    lstm.register_forward_hook(lambda *_: calls.append("forward"))
    lstm.weight_hh_l0.register_hook(lambda grad: calls.append("gradient"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    converted(model)
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert model.training and not lstm.training and (lstm.extra == 1).all()
    before = lstm.weight_hh_l0.detach().clone()
    model(some(6, 3, 4, device=device)).sum().backward()
    optimizer.step()
    assert calls == ["forward", "gradient"]
    assert not torch.equal(lstm.weight_hh_l0, before)


def test_a_converted_model_can_be_copied_and_reverted_on_its_own():
    model = Translator()
    converted(model)
    twin = copy.deepcopy(model)
    converted(twin, fusedrnn.revert)
    assert type(twin.encoder[1]) is torch.nn.LSTM and type(model.encoder[1]) is fusedrnn.LSTM


def test_a_reverted_module_uses_the_weights_it_has_by_then(device):
    module, x = torch.nn.GRU(4, 7).to(device), some(5, 3, 4, device=device)
    converted(module)
    module.weight_hh_l0 = torch.nn.Parameter(torch.full((21, 7), 0.1, device=device))
    expected = module(x)[0]
    converted(module, fusedrnn.revert)
    torch.testing.assert_close(module(x)[0], expected)


def test_the_report_is_printed_unless_it_is_turned_off(capsys):
    fusedrnn.convert(torch.nn.Sequential(torch.nn.GRU(4, 7)))
    assert capsys.readouterr().out == "0: torch.nn.GRU -> fusedrnn.GRU\n"
    model = fusedrnn.convert(torch.nn.Sequential(torch.nn.GRU(4, 7)), report=None)
    fusedrnn.revert(model, report=None)
    fusedrnn.revert(model, report=None)
    assert capsys.readouterr().out == ""
    fusedrnn.convert(torch.nn.Linear(4, 7))
    assert capsys.readouterr().out == "no torch.nn recurrent module found\n"


# --- parametrized modules ------------------------------------------------------------------------------------------


def test_a_parametrized_module_is_swapped_under_its_parametrization(device):
    module = parametrizations.weight_norm(torch.nn.LSTM(4, 7).to(device), "weight_hh_l0")
    x = some(5, 3, 4, device=device)
    expected = module(x)[0]
    assert converted(module) == ["(root): torch.nn.LSTM -> fusedrnn.LSTM"]
    assert isinstance(module, fusedrnn.LSTM) and parametrize.is_parametrized(module, "weight_hh_l0")
    torch.testing.assert_close(module(x)[0], expected)
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(2)
    assert not torch.allclose(module(x)[0], expected)
    assert converted(module, fusedrnn.revert) == ["(root): fusedrnn.LSTM -> torch.nn.LSTM"]
    assert not isinstance(module, fusedrnn.LSTM) and parametrize.is_parametrized(module)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is torch.nn.LSTM


def test_a_copy_of_a_parametrized_module_is_not_converted_with_it():
    module = parametrizations.weight_norm(torch.nn.LSTM(4, 7), "weight_hh_l0")
    twin = copy.deepcopy(module)
    converted(module)
    assert isinstance(module, fusedrnn.LSTM) and not isinstance(twin, fusedrnn.LSTM)


def test_more_weights_can_be_parametrized_after_conversion(device):
    module = parametrizations.weight_norm(torch.nn.GRU(4, 7).to(device), "weight_hh_l0")
    converted(module)
    parametrizations.weight_norm(module, "weight_ih_l0")
    x = some(5, 3, 4, device=device)
    expected = module(x)[0]
    converted(module, fusedrnn.revert)
    torch.testing.assert_close(module(x)[0], expected)


# --- what is left alone, and why -----------------------------------------------------------------------------------


class Theirs(torch.nn.LSTM):
    """A user's subclass of torch.nn's."""


class Own(fusedrnn.LSTM):
    """A user's subclass of ours."""


def test_a_subclass_is_left_alone_in_both_directions():
    model = torch.nn.ModuleDict({"theirs": Theirs(4, 7), "own": Own(4, 7)})
    (line,) = converted(model)
    assert line.startswith(f"theirs: {__name__}.Theirs left alone: it is a subclass of torch.nn.LSTM")
    (line,) = converted(model, fusedrnn.revert)
    assert line.startswith(f"own: {__name__}.Own left alone: it is a subclass of fusedrnn.LSTM")
    assert type(model["theirs"]) is Theirs and type(model["own"]) is Own


def test_a_parametrized_subclass_is_left_alone():
    module = parametrizations.weight_norm(Theirs(4, 7), "weight_hh_l0")
    (line,) = converted(module)
    assert f"{__name__}.Theirs left alone" in line
    assert not isinstance(module, fusedrnn.LSTM)


def test_a_module_whose_forward_was_replaced_is_left_alone():
    module = torch.nn.GRU(4, 7)
    module.forward = lambda input: input
    (line,) = converted(module)
    assert line.startswith("(root): torch.nn.GRU left alone: its forward is replaced")
    assert type(module) is torch.nn.GRU


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_a_scripted_module_is_left_alone():
    model = torch.nn.Sequential(torch.jit.script(torch.nn.LSTM(4, 7)), torch.nn.LSTM(7, 7))
    scripted, plain = converted(model)
    assert scripted.startswith("0: ") and scripted.endswith("left alone: it is compiled by TorchScript")
    assert plain == "1: torch.nn.LSTM -> fusedrnn.LSTM"
    assert isinstance(model[0], torch.jit.ScriptModule)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_quantized_module_is_left_alone():
    from torch.ao.nn.quantized import dynamic

    model = torch.nn.Sequential(dynamic.LSTM(4, 7))
    (line,) = converted(model)
    assert line == f"0: {dynamic.LSTM.__module__}.LSTM left alone: it is a quantized variant"
    assert type(model[0]) is dynamic.LSTM


@pytest.mark.parametrize("change", [fusedrnn.convert, fusedrnn.revert])
@pytest.mark.parametrize("model", [torch.nn.LSTM, "LSTM", [torch.nn.LSTM(1, 1)]], ids=str)
def test_what_is_no_module_is_refused(model, change):
    with pytest.raises(TypeError, match=rf"must be a torch.nn.Module; got {type(model).__name__}"):
        change(model)


def test_revert_gathers_the_weights_for_cudnn_again(monkeypatch):
    """Moved as ours they have left their block, of which torch.nn warns and which it makes anew in every call."""
    model, gathered = torch.nn.Sequential(torch.nn.LSTM(3, 4), torch.nn.GRUCell(3, 4)), []
    fusedrnn.convert(model, report=None)
    monkeypatch.setattr(torch.nn.LSTM, "flatten_parameters", lambda layer: gathered.append(layer))
    fusedrnn.revert(model, report=None)
    assert gathered == [model[0]]
