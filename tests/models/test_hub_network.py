"""A bad network between this machine and the hub: what is said, what is tried again, and that no half file is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from rich.progress import Progress
from support.stand_in_hub import HTML, Fault, StandInHub

from vitrine import messages
from vitrine.api import progress
from vitrine.errors import WeightsUnavailableError
from vitrine.io import network
from vitrine.models import hub as hub_files

NAME, REMEDY = "model.safetensors", "and give that file."
CONTENT = bytes(range(256)) * 400
PAGE = Fault(body=HTML, headers={"Content-Type": "text/html; charset=utf-8"})
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model owner/tiny is restricted. \x1b[31m"}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for, ours and those of the hub's client; nobody waits."""
    seconds: list[float] = []
    monkeypatch.setattr(network, "pause", seconds.append)
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=seconds.append, time=lambda: 0.0))
    monkeypatch.setattr(hub_files, "MAX_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    return seconds


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[StandInHub]:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / NAME).write_bytes(CONTENT)
    with StandInHub({"owner/tiny": tmp_path / "there"}).running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield running


def fetch() -> Path:
    return hub_files.fetch("owner/tiny", (NAME,), REMEDY)


def large_files(folder: Path) -> list[Path]:
    """Files that hold some of the content, under whatever name."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1000]


REFUSED = {
    "gated": (Fault(403, GATED), "is gated.*Accept its terms at .*owner/tiny, log in with 'hf auth login'"),
    "gated, no login": (Fault(401, GATED), "is gated.*Accept its terms"),
    "private": (Fault(401, {"X-Error-Code": "RepoNotFound"}), "not found, or private.*hf auth login"),
    "a bad token": (
        Fault(401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        r"answers 401 \(Unauthorized\).*hf auth login",
    ),
    "forbidden": (Fault(403), r"answers 403 \(Forbidden\).*hf auth login"),
    "no revision": (Fault(404, {"X-Error-Code": "RevisionNotFound"}), "has no revision main.*tree/main"),
    "not there": (Fault(404), r"answers 404 \(Not Found\).*Download it from"),
    "a page": (PAGE, "a web page came in place of the file.*Download it from"),
    "a page for the file": (replace(PAGE, method="GET"), "a web page came in place of the file"),
    "a login elsewhere": (Fault(302, {"Location": "http://login.example/"}), "a web page came in place of the file"),
    "a wrong length": (Fault(sent=0.5, is_short=True), "should be of size.*Download it from"),
    "another length": (Fault(headers={"X-Linked-Size": "7"}), "should be of size 7"),
    "other bytes": (Fault(flip_at=-1), "came from the hub is damaged.*should have the sha256.*try again"),
    "a long wait": (Fault(429, {"Retry-After": "86400"}), "429.*asks to wait 86,400 s"),
    "a long wait, for the file": (Fault(429, {"Retry-After": "86400"}, method="GET"), "429.*asks to wait 86,400 s"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_had_is_said_at_once_and_succeeds_later(
    case: str, hub: StandInHub, tmp_path: Path, waits: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    fault, expected = REFUSED[case]
    hub.faults[NAME] = fault
    with pytest.raises(WeightsUnavailableError) as error:
        fetch()
    message = str(error.value)
    assert len(message.splitlines()) == 2
    assert re.search(expected, message.replace("\n", " ")), message
    assert error.value.exit_code == 2 and "\x1b" not in message and "hf_secret" not in message + capfd.readouterr().err
    assert waits == []
    assert large_files(tmp_path / "cache") == []
    hub.faults.clear()
    assert fetch().read_bytes() == CONTENT


PASSING = {
    "429": Fault(429, {"Retry-After": "7"}),
    "429 for the file": Fault(429, {"Retry-After": "7"}, method="GET"),
    "500": Fault(500),
    "502 for the file": Fault(502, method="GET"),
    "503": Fault(503, {"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}),
    "503 for the file": Fault(503, method="GET"),
    "504 with a page": Fault(504, body=HTML),
    "silent": Fault(silent=0.5),
    "cut off": Fault(sent=0.4, method="GET"),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_is_tried_again(case: str, hub: StandInHub, waits: list[float]) -> None:
    hub.faults[NAME] = replace(PASSING[case], times=2)
    assert fetch().read_bytes() == CONTENT
    assert len(waits) == 2
    if "Retry-After" in PASSING[case].headers and PASSING[case].status == 429:
        assert waits == [7, 7]


@pytest.mark.parametrize("case", [name for name in PASSING if name not in ("silent", "cut off")])
def test_what_does_not_pass_ends_in_a_sentence(
    case: str, hub: StandInHub, tmp_path: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults[NAME] = PASSING[case]
    with pytest.raises(WeightsUnavailableError, match=rf"the server answers {case[:3]} \(") as error:
        fetch()
    assert len(str(error.value).splitlines()) == 2
    assert len(waits) == network.DOWNLOAD_ATTEMPTS - 1 and sum(waits) < 60
    assert f"attempt {network.DOWNLOAD_ATTEMPTS} of {network.DOWNLOAD_ATTEMPTS} in" in caplog.text
    assert large_files(tmp_path / "cache") == []


@pytest.mark.parametrize("changes", [False, True])
def test_a_download_goes_on_where_it_broke_and_is_compared_as_a_whole(
    changes: bool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file is replaced meanwhile, the two halves fit one another in length, and not in their hash."""

    def sleep(_: float) -> None:
        if changes:
            (tmp_path / "there" / NAME).write_bytes(CONTENT[::-1])

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=sleep))
    hub.faults[NAME] = Fault(sent=0.4, method="GET", times=1)
    if changes:
        with pytest.raises(WeightsUnavailableError, match="came from the hub is damaged"):
            fetch()
        assert large_files(tmp_path / "cache") == []
    else:
        assert fetch().read_bytes() == CONTENT
    assert hub.ranges == [f"{NAME} from {len(CONTENT) * 4 // 10}"]
    assert fetch().read_bytes() == (tmp_path / "there" / NAME).read_bytes()


@pytest.mark.parametrize("fault", [Fault(503), Fault(429, {"Retry-After": "86400"}), PAGE, Fault(silent=0.5)])
def test_what_is_in_the_cache_is_used_at_once(
    fault: Fault, hub: StandInHub, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch()
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.faults[NAME] = fault
    assert fetch() == path
    assert waits == []


def test_small_files_are_compared_with_the_hash_of_git(hub: StandInHub, tmp_path: Path) -> None:
    hub.git.add(NAME)
    hub.faults[NAME] = Fault(flip_at=-1)
    with pytest.raises(WeightsUnavailableError, match="should have the git hash"):
        fetch()
    assert large_files(tmp_path / "cache") == []
    hub.faults.clear()
    path = fetch()
    assert path.read_bytes() == CONTENT
    path.resolve().write_bytes(CONTENT[:-1] + b"?")
    os.utime(path.resolve(), (1e9, 1e9))
    with pytest.raises(WeightsUnavailableError, match="was changed or is damaged"):
        fetch()


def test_a_verb_ends_with_2(
    hub: StandInHub, tmp_path: Path, vitrine_command: Callable[..., tuple[int, str, str]]
) -> None:
    hub.faults["config.json"] = Fault(403, GATED)
    (tmp_path / "there" / "config.json").write_text("{}")
    status, out, error = vitrine_command("positions", "hf-hub:owner/tiny", "-o", tmp_path / "positions.png")
    assert (status, out) == (2, "") and "Accept its terms" in error and "Traceback" not in error


def test_a_download_is_shown_beside_the_work_that_it_is_for(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on where it broke; the bar is of bytes, and nobody is told of what is in the cache folder already."""
    bars = Progress(disable=True)
    monkeypatch.setattr(progress, "_progress", lambda: bars)
    hub.faults[NAME] = Fault(sent=0.4, method="GET", times=1)
    seen: list[tuple[int, int]] = []
    with progress.training_progress():
        own_report = messages.download_report()
        assert own_report is not None
        with messages.showing_downloads(lambda *row: (seen.append(row[1:]), own_report(*row))):  # type: ignore[func-returns-value]
            fetch()
            once = len(seen)
            fetch()
    assert len(seen) == once and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    (task,) = bars.tasks
    assert (task.description, task.completed, task.total) == (f"Downloading {NAME}", 0.1024, 0.1024)
    assert messages.download_report() is None


def test_a_quiet_download_draws_nothing(hub: StandInHub, capfd: pytest.CaptureFixture[str]) -> None:
    assert hub_files._bar_option(NAME) == {}, "where no work is shown the client draws its own bar"
    with messages.quiet_messages():
        assert hub_files._bar_option(NAME)["tqdm_class"](desc="a", total=7).disable
        fetch()
    assert capfd.readouterr().err == ""
