"""Requests that are contradictory or empty are refused, each with one line."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bench.cli import main
from bench.cli.context import Place
from bench.cli.options import RequestOptions
from bench.cli.run import asked_for

SMOKE = "run --preset smoke"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which a command is refused."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    out, err = capsys.readouterr()
    assert exited.value.code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"{SMOKE} --sweep train.lr=1e-3,1e-2 --set train.lr=1e-3", "--sweep train.lr and --set"),
        (f"{SMOKE} --sweep train.losses={{}} --set train.losses.z=1", "contradict each other"),
        (f"{SMOKE} --set train.lr=1e-3 --set train.lr=1e-2", "--set gives train.lr twice"),
        (f"{SMOKE} --sweep train.lr=1 --sweep train.lr=2", "--sweep gives train.lr twice"),
        (f"{SMOKE} --sweep train.lr=1,1.0", "names the value 1 twice"),
        (f"{SMOKE} --set train.clip_norm=", "gives no value"),
        (f"{SMOKE} --data-dir a --set data.data_dir=b", "gives data.data_dir twice"),
        (f"{SMOKE} --routers soft_moe,soft_moe", "has 'soft_moe' twice"),
        (f"{SMOKE} --routers soft_moe,", "has an empty name"),
        (f"{SMOKE} --routers ''", "--routers is empty"),
        (f"{SMOKE} --routers=", "--routers is empty"),
        (f"{SMOKE} --study ''", "--study is empty"),
        (f"{SMOKE} ' '", "an argument is empty"),
        ("run --preset ''", "--preset is empty"),
        ("tune --preset smoke --routers ''", "--routers is empty"),
        ("tune --preset smoke --set train.lr=1 --set train.lr=2", "--set gives train.lr twice"),
        ("plan --db ''", "--db is empty"),
        ("report --check a --out b", "--check and --out"),
        ("report --check a --trace main x y", "--check and --trace"),
        ("report --trace main x y --out b", "--trace and --out"),
        ("status --watch --digest", "--watch and --digest"),
        (f"{SMOKE} --db sqlite://", "in memory"),
        (f"{SMOKE} --db sqlite:///:memory:", "in memory"),
        (f"{SMOKE} --db :memory:", "in memory"),
        (f"{SMOKE} --home ~nobody_of_this_name/x", "~nobody_of_this_name/x"),
        (f"{SMOKE} --db ~nobody_of_this_name/x", "~nobody_of_this_name/x"),
        (f"{SMOKE} --plugin ~nobody_of_this_name/x.py", "~nobody_of_this_name/x.py"),
        (f"{SMOKE} --routers my_router", "If it is your own, give its file: --plugin FILE"),
        ("check my_router", "--plugin FILE"),
        ("run my_suite --preset smoke", "--plugin FILE"),
        ("doctor --quick", "--quick and --out belong to --device"),
        ("doctor --device cpu --out .", "is a folder; name a file in it, such as device-cpu.md"),
    ],
)
def test_a_request_is_refused(
    arguments: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(shlex.split(arguments), capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"{SMOKE} --set model.name=vit_tiny_patch16_224.wrong", "Invalid pretrained tag (wrong)"),
        ("tune --preset smoke --set router.affinity=3", "no affinity is named 3"),
    ],
)
def test_a_name_of_the_wrong_kind_is_refused(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused([*shlex.split(arguments), "--home", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "/etc/x", "a/b", "a b", "-x", ".x", "ä", "x" * 101]
)
@pytest.mark.parametrize("command", ["run", "tune", "plan"])
def test_the_name_of_a_study_must_not_be_a_path(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = [command, "--preset", "smoke", f"--study={name}", "--home", str(tmp_path / "home")]
    err = refused(request, capsys)
    assert f"a study cannot be named {name!r}" in err
    assert "--study gives another name" in err
    assert not (tmp_path / "home").exists()


def test_the_message_suggests_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'my-study' would do" in refused([*SMOKE.split(), "--study", "../my study"], capsys)


PRESET = """
description: a preset
routers: [dense]
suites: {accuracy: {}}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PRESET + "seeds: 2\nseeds: 3\n", "the key 'seeds' occurs twice"),
        (PRESET + "train: {lr: 1, lr: 2}\n", "the key 'lr' occurs twice"),
        (PRESET + "seeds: yes\n", "seeds = True is yes or no"),
        (PRESET + "train: {epochs: on}\n", "epochs = True is yes or no"),
        (PRESET + "train: {losses: {z: yes}}\n", "is yes or no"),
        (
            PRESET.replace("[dense]", "soft_moe"),
            "routers = 'soft_moe' is not a list; write [soft_moe]",
        ),
        (PRESET + "parts: [{routers: dense}]\n", "routers = 'dense' is not a list"),
        (
            PRESET + "parts: [{set: {train.lr: 1}, sweep: {train.lr: [1, 2]}}]\n",
            "train.lr is in both set and sweep",
        ),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "is not a text file"),
        (b"\x00\x01", "is not valid YAML"),
    ],
)
def test_a_preset_that_contradicts_itself_is_refused(
    text: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    err = refused(["run", "--preset", str(file), "--home", str(tmp_path / "home")], capsys)
    assert message in err
    assert str(file) in err
    assert not (tmp_path / "home").exists()


def test_the_name_of_a_preset_must_be_valid_for_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my preset.yaml"
    file.write_text(PRESET)
    err = refused(["run", "--preset", str(file), "--home", str(tmp_path / "home")], capsys)
    assert "a study cannot be named 'my preset'" in err


def options_of(settings: list[str], sweep: list[str] | None = None) -> dict[str, object]:
    """Return the model's options of the preset smoke with these settings."""
    request = asked_for(
        Place(Path("none"), "none", ()), RequestOptions(preset="smoke", set_=settings, sweep=sweep)
    )
    return request.preset.model.options


def test_the_presets_model_options_do_not_apply_to_another_model() -> None:
    name = "model.name=deit_tiny_patch16_224"
    assert "depth" in options_of([])
    assert options_of([name]) == {}
    assert options_of([name, "model.options.depth=2"]) == {"depth": 2}
    same = options_of([])
    assert options_of(["model.name=vit_tiny_patch16_224"]) == same


def test_a_tilde_in_the_database_path_is_expanded_and_creates_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    err = refused(["status", "--db", "~/t.db"], capsys)
    assert f"there is no database {tmp_path / 'me' / 't.db'}" in err
    assert list(tmp_path.iterdir()) == []
