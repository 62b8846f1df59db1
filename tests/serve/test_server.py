"""``vitrine serve`` as a command: its address, its warning, and what it refuses to start with."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from vitrine.serve.server import _address
from vitrine.serve.settings import ServeSettings

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def served_states(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would be served; nothing is."""
    states: list[object] = []

    def run_server(state: object, on_ready: Callable[[str], None]) -> None:
        states.append(state)
        on_ready("http://there/")

    monkeypatch.setattr("vitrine.serve.server.run_server", run_server)
    return states


def test_the_address_alone_is_on_stdout(vitrine_command: Command, small_run: Path, served_states: list[object]) -> None:
    status, out, err = vitrine_command("serve", small_run, "vitrine/scenes-tiny")
    assert (status, out) == (0, "http://there/\n")
    assert str(small_run / "model.safetensors") in err
    assert "Warning" not in err
    assert list(served_states[0].models) == ["0", "1"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("host", "token", "has_warning"), [
    ("127.0.0.1", None, False), ("::1", None, False), ("localhost", None, False), ("127.1.2.3", None, False),
    ("0.0.0.0", None, True), ("192.168.0.7", None, True), ("vit.lab", None, True), ("0.0.0.0", "secret", False),
])  # fmt: skip
def test_an_open_address_without_a_token_is_warned_of(
    vitrine_command: Command, served_states: list[object], host: str, token: str | None, has_warning: bool
) -> None:
    status, _, err = vitrine_command(
        "serve", "vitrine/scenes-tiny", "--host", host, *(["--token", token] if token else [])
    )
    assert status == 0
    assert ("Warning" in err) == has_warning


def test_what_it_cannot_start_with(vitrine_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, _, err = vitrine_command("serve", "vitrine/scenes-tiny", "--port", other.getsockname()[1])
        assert status == 2
        assert "cannot be served" in err and "Choose another --port" in err and "Traceback" not in err
    status, _, err = vitrine_command("serve", "vitrine/scenes-tiny", "--host", "no.such.host.invalid")
    assert status == 2 and "cannot be served" in err
    status, _, err = vitrine_command("serve", tmp_path / "nothing")
    assert status == 2 and "There is no model" in err
    status, _, err = vitrine_command("serve", "vitrine/scenes-tiny", "--token", "")
    assert status == 2 and "--token" in err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, _, err = vitrine_command("serve", "vitrine/scenes-tiny")
    assert status == 2 and "pip install 'vitrine[serve]'" in err


def test_the_printed_address_carries_any_token() -> None:
    for token in ("ab+cd/e==", "a&b", "a#b", "a%41", "ü ö"):
        address = urlsplit(_address(ServeSettings(token=token), 8000))
        assert parse_qsl(address.query, keep_blank_values=True) == [("token", token)] and not address.fragment
