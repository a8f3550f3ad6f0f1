"""`doctor --device` compares a device with the CPU; here both are the CPU."""

import getpass
import platform
import re

import pytest
import torch

from bench.check.device import Agreement, agreement, relative_error, routers_to_compare
from bench.check.device_speed import DENSE, QUICK, layer_speed, model_speed
from bench.cli import main
from bench.cli.doctor_device import DeviceReport, markdown, summary
from routers import ROUTERS, Router, TokenChoiceRouting, register_router

CPU = torch.device("cpu")


@pytest.fixture
def register():
    """Register a router for one test only."""
    names = []

    def registered(name, kind):
        register_router(name, family="token_choice")(kind)
        names.append(name)

    yield registered
    for name in names:
        ROUTERS.discard(name)


class Chosen(Router):
    """A top-1 router that tests break."""

    def allocate(self, logits):
        return TokenChoiceRouting.top_k(logits.softmax(-1), 1, self.capacity(logits))


def test_the_cpu_agrees_with_itself():
    seen = agreement("softmax_token_choice", CPU)
    assert (seen.output, seen.gradient, seen.moved) == (0, 0, 0)
    assert seen.equal
    assert seen.repeatable
    assert seen.in_training
    assert 1e-4 < seen.half[0] < 2**-6
    assert seen.waits is None
    assert seen.faults == []


def test_training_is_not_compared_for_a_router_that_draws_random_numbers():
    assert not agreement("random", CPU).in_training
    assert agreement("hash", CPU).in_training


def test_a_nondeterministic_router_is_reported_as_different(register):
    class Drawing(Chosen):
        def compute_logits(self, tokens, context):
            return torch.randn(*tokens.shape[:2], self.num_experts)

    register("drawing", Drawing)
    seen = agreement("drawing", CPU)
    assert not seen.equal
    assert not seen.repeatable
    assert seen.output > 0.1
    assert seen.moved > 0
    assert "differs from the CPU" in seen.faults


def test_a_failing_router_does_not_affect_the_results_of_others(register):
    class Failing(Chosen):
        def allocate(self, logits):
            raise ArithmeticError("of this test")

    register("failing", Failing)
    assert agreement("failing", CPU).faults == ["ArithmeticError: of this test"]
    assert layer_speed("failing", "B", CPU, False, QUICK).error == "ArithmeticError: of this test"


def test_errors_are_relative_to_the_size_of_the_values():
    one = torch.tensor([3.0, 4.0])
    assert relative_error(one + torch.tensor([0.0, 0.5]), one) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


@pytest.mark.parametrize("name", [DENSE, "softmax_expert_choice"])
def test_layers_and_models_are_timed(name):
    layer = layer_speed(name, "B", CPU, False, QUICK)
    model = model_speed(name, CPU, True, QUICK)
    assert (layer.rows, model.rows) == (16, 2)
    assert (layer.precision, model.precision) == ("float32", "bfloat16")
    for each in (layer, model):
        assert each.forward_ms > 0
        assert each.rate == pytest.approx(1e3 * each.rows / each.train_ms)
        assert (each.memory, each.error) == (None, "")


def report(*agreements):
    return DeviceReport("cuda", {"device": "a GPU"}, list(agreements), {}, 3, 61.0, False)


def test_the_report_says_what_is_wrong():
    good = Agreement("good", 1e-6, 2e-6, in_training=True, repeatable=True, waits=False)
    late = Agreement("late", 1e-6, 2e-6, waits=True)
    open_about_it = Agreement("open", 1e-6, 2e-6, waits=True, declared="it must")
    made = report(good, late, open_about_it, Agreement("bad", error="Error: broken"))
    assert made.faults == ["late: waits for the device and does not say so", "bad: Error: broken"]
    assert summary(made) == (
        "3 of 4 routers give the CPU's results, 1 give the same bits twice; 2 wait for the "
        "device; 1 min 01 s."
    )
    text = markdown(made)
    assert "- bad: Error: broken" in text
    assert "| good | 1.0e-06 | 2.0e-06 | 0 | compared | same | nan / nan | no |" in text
    assert text.count("yes: it must") == 1
    assert "3 timings did not fit" in text
    assert "says nothing about a GPU" not in text


@pytest.mark.slow
def test_the_command_writes_a_report_for_publication(tmp_path, capsys):
    file = tmp_path / "report.md"
    with pytest.raises(SystemExit) as exited:
        main(["doctor", "--device", "cpu", "--quick", "--out", str(file), "--home", str(tmp_path)])
    assert exited.value.code == 0
    shown = capsys.readouterr()
    text = file.read_text(encoding="utf-8")
    assert str(file) in shown.out.replace("\n", "")
    assert f"{len(routers_to_compare())} of {len(routers_to_compare())} routers" in text
    assert "says nothing about a GPU" in text
    for name in routers_to_compare():
        assert len(re.findall(rf"^\| {name} \|", text, re.MULTILINE)) >= 3, name
    assert text.count("| softmax_token_choice | bfloat16 |") == 2
    for private in (platform.node(), str(tmp_path), f"/{getpass.getuser()}"):
        assert private not in text
    assert torch.__version__ in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["doctor", "--device", "cuda", "--home", str(tmp_path / "runs")])
    assert exited.value.code == 2
    assert "sees no CUDA device here" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
