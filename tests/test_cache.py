"""The cache folder: what lies in it and since when, what is removed from it, and that --offline asks nobody."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.models import MICRO
from support.stand_in_hub import COMMIT, Fault, StandInHub

from vitrine.cache import cache_contents, format_bytes, prune, select_items
from vitrine.errors import UsageError, WeightsUnavailableError
from vitrine.io import hub_cache as records
from vitrine.io.hub_cache import cache_folder, download_settings, is_offline, note_use, read_records
from vitrine.models.cache import RELEASES, release_path
from vitrine.models.captioner import catr
from vitrine.models.load import load_model
from vitrine.models.reference import WeightsFile
from vitrine.runs.environment import weights_notes

Command = Callable[..., tuple[int, str, str]]
TINY = "hf-hub:owner/tiny"
LATER = "beef" + "0" * 36


def save_for_hub(folder: Path, seed: int = 7) -> Path:
    """A timm model as timm itself puts it on the hub; its classes are those of ``small_scenes``."""
    torch.manual_seed(seed)
    args = {**MICRO, "num_classes": 12}
    module = timm.create_model("vit_tiny_patch16_224", **args)
    timm.models.save_for_hf(module, str(folder), model_config={"model_args": args}, safe_serialization=True)
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def on_disk(folder: Path) -> int:
    """Bytes of plain files, found another way than by the package: by ``find``."""
    listing = subprocess.run(["find", folder, "-type", "f", "-printf", "%s %i\n"], capture_output=True, text=True)
    return sum(int(size) for size, _ in {tuple(line.split()) for line in listing.stdout.splitlines()})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    from huggingface_hub import constants

    with StandInHub({"owner/tiny": save_for_hub(tmp_path / "there")}).running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to reach a network or to look up a name, each of which fails."""
    attempts: list[str] = []

    def refuse(*arguments: object, **_: object) -> None:
        attempts.append(repr(arguments))
        raise OSError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return attempts


# --- settings


def test_settings_hold_within_their_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("VITRINE_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "vitrine" and not is_offline()
    with download_settings(into=tmp_path / "one"), download_settings(offline=True):
        assert cache_folder() == tmp_path / "one" and is_offline()
        assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"  # for libraries and child processes
        with download_settings(into=tmp_path / "two"):
            assert cache_folder() == tmp_path / "two" and is_offline()
        assert cache_folder() == tmp_path / "one"
    assert "VITRINE_CACHE" not in os.environ and not is_offline() and not constants.HF_HUB_OFFLINE
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_offline()


def test_the_options_may_stand_before_the_verb_or_after_it(
    tmp_path: Path, vitrine_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "default"))
    for arguments, folder in (
        (["cache", "--json"], "default"),
        (["--cache", tmp_path / "a", "cache", "--json"], "a"),
        (["cache", "--cache", tmp_path / "a", "--json"], "a"),
        (["--cache", tmp_path / "a", "cache", "--cache", tmp_path / "b", "--json"], "b"),
        (["cache", "--json"], "default"),
    ):
        status, out, _ = vitrine_command(*arguments)
        assert (status, json.loads(out)["folder"]) == (0, str(tmp_path / folder))
    assert not is_offline()
    (tmp_path / "file").write_text("x")
    status, out, error = vitrine_command("check", "nowhere", "--cache", tmp_path / "file")
    assert (status, out) == (2, "") and "is not a folder" in error


def test_nobody_is_told_what_runs_here(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    assert "torch/" in build_hf_headers()["user-agent"]
    load_model(TINY, pretrained=True)
    assert "torch/" not in build_hf_headers()["user-agent"]


# --- what lies there


def test_what_lies_there_is_listed(hub: StandInHub, cache: Path, tmp_path: Path, vitrine_command: Command) -> None:
    began = datetime.now(UTC).isoformat()
    model = load_model(TINY, pretrained=True)
    release_path("catr/v3").parent.mkdir()
    release_path("catr/v3").write_bytes(b"weights")
    status, out, _ = vitrine_command("cache", "--json")
    content = json.loads(out)
    assert status == 0
    repository, release = content["items"]
    assert (repository["name"], repository["kind"], repository["revision"]) == ("owner/tiny", "model", COMMIT)
    assert repository["from"] == f"{hub.address}/owner/tiny"
    assert began <= repository["last_used"] <= datetime.now(UTC).isoformat()
    files = {each["name"]: each for each in repository["files"]}
    assert set(files) == {"config.json", "model.safetensors"}
    for name, each in files.items():
        assert each["sha256"] == sha256(tmp_path / "there" / name)
        assert each["size"] == (tmp_path / "there" / name).stat().st_size
        assert began <= each["last_used"] <= datetime.now(UTC).isoformat()
    assert model.weights is not None and files["model.safetensors"]["path"] == str(model.weights.path)
    assert (release["name"], release["from"], release["last_used"]) == ("catr/v3", RELEASES["catr/v3"], None)
    assert release["files"][0]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert content["size"] == on_disk(cache) or abs(content["size"] - on_disk(cache)) < 4096  # links count their path
    assert content["unknown"] == []
    text = vitrine_command("cache")[1]
    for words in (
        "owner/tiny  model",
        f"from {hub.address}/owner/tiny, commit c0ffee000000",
        "catr/v3",
        "not used yet",
    ):
        assert words in text
    assert f"{sha256(tmp_path / 'there' / 'model.safetensors')}  model.safetensors" in text


def test_a_folder_that_is_not_there_yet(cache: Path, vitrine_command: Command) -> None:
    status, out, error = vitrine_command("cache")
    assert (status, error) == (0, "") and str(cache) in out and "Nothing was downloaded." in out
    assert not cache.exists()


def test_a_hash_is_computed_again_only_for_another_content(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = release_path("catr/v1")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    hashed_paths = []
    real = records._sha256
    monkeypatch.setattr(records, "_sha256", lambda path: hashed_paths.append(path) or real(path))
    for _ in range(2):
        (item,) = cache_contents().items
        assert item.files[0].sha256 == hashlib.sha256(b"first").hexdigest()
    assert len(hashed_paths) == 1
    path.write_bytes(b"second")
    (item,) = cache_contents().items
    assert item.files[0].sha256 == hashlib.sha256(b"second").hexdigest()


def test_sizes_for_a_person() -> None:
    assert [format_bytes(n) for n in (0, 999, 1_000, 343_210_000, 5_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "343.2 MB",
        "5.0 GB",
    ]


# --- records


def test_records_survive_many_processes(cache: Path) -> None:
    """Five writers of one record, and a reader that must find it whole at any moment."""
    (cache / "hub").mkdir(parents=True)
    (cache / "hub" / "file").write_bytes(b"content")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vitrine.io import hub_cache as records\n"
        "for _ in range(100):\n"
        "    records._note.cache_clear()\n"
        "    records.note_use(Path(sys.argv[1]), 'somewhere')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, cache / "hub" / "file"]) for _ in range(5)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        for path in (cache / "uses").glob("*.json"):
            assert json.loads(path.read_text())["sha256"] == hashlib.sha256(b"content").hexdigest()
            reads += 1
    assert reads and all(writer.returncode == 0 for writer in writers)
    assert list(read_records(cache)) == ["hub/file"]
    assert len(list((cache / "uses").iterdir())) == 1, "temporary files are left"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"file": 3}', '{"file": "hub/file", "more": 1}', "\x00\xff"])
def test_what_is_no_record_is_left_out(content: str, cache: Path) -> None:
    (cache / "hub").mkdir(parents=True)
    (cache / "hub" / "file").write_bytes(b"x")
    note_use(cache / "hub" / "file", "somewhere")
    (path,) = (cache / "uses").glob("*.json")
    path.write_text(content, encoding="latin-1")
    assert read_records(cache) == {}
    records._note.cache_clear()
    note_use(cache / "hub" / "file", "somewhere")
    assert list(read_records(cache)) == ["hub/file"]


def test_a_cache_that_cannot_be_written_to_is_read(hub: StandInHub, cache: Path) -> None:
    load_model(TINY, pretrained=True)
    shutil.rmtree(cache / "uses")
    (cache / "uses").write_text("in the way of every record")  # permissions do not stop a test that root runs
    records._note.cache_clear()
    assert load_model(TINY, pretrained=True).weights is not None
    (item,) = cache_contents().items
    assert item.last_used is None and len(item.files) == 2


# --- removing


def test_what_is_pruned_by_name_is_gone(hub: StandInHub, cache: Path, tmp_path: Path, vitrine_command: Command) -> None:
    hub.repositories["owner/other"] = save_for_hub(tmp_path / "other", seed=8)
    for name in ("owner/tiny", "owner/other"):  # at the same commit, here: only the named one may go
        load_model(f"hf-hub:{name}", pretrained=True)
    before = on_disk(cache)
    status, out, error = vitrine_command("cache", "--prune", "owner/tiny", "--yes")
    assert (status, error) == (0, "")
    assert "Removed owner/tiny (model, commit c0ffee000000" in out and "Freed" in out
    there = cache / "hub" / "models--owner--other"
    assert {path.name for path in (cache / "hub").glob("models--*")} == {there.name}
    assert all("owner--other" in file for file in read_records(cache))
    freed = before - on_disk(cache)
    assert freed > (tmp_path / "there" / "model.safetensors").stat().st_size
    hub.requests.clear()
    load_model("hf-hub:owner/other", pretrained=True)
    assert not [request for request in hub.requests if request.startswith("GET")]
    load_model(TINY, pretrained=True)
    assert "GET owner/tiny/model.safetensors" in hub.requests


def test_what_was_freed_is_what_the_disk_gained(hub: StandInHub, cache: Path) -> None:
    load_model(TINY, pretrained=True)
    contents, before = cache_contents(), on_disk(cache)
    result = prune(contents, contents.items)
    assert abs(result.freed - (before - on_disk(cache))) < 4096 and result.left < 4096  # links, which find left out
    assert cache_contents().items == ()


def test_what_two_revisions_share_stays(
    hub: StandInHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(f"{TINY}@v1", pretrained=True)
    save_for_hub(tmp_path / "there", seed=9)  # config.json stays the same
    hub.commit = LATER
    load_model(f"{TINY}@v2", pretrained=True)
    contents = cache_contents()
    assert {item.revision for item in contents.items} == {COMMIT, LATER}
    (old,) = select_items(contents, ["owner/tiny@c0ffee"])
    prune(contents, [old])
    (left,) = cache_contents().items
    assert left.revision == LATER
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model(f"{TINY}@v2", pretrained=True).weights is not None
    with pytest.raises(WeightsUnavailableError, match="the network was turned off"):
        load_model(f"{TINY}@v1", pretrained=True)


def test_days_count_from_the_last_use_or_else_from_the_download(
    hub: StandInHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ago = datetime.fromtimestamp(time.time() - 40 * 86_400, UTC).isoformat()
    monkeypatch.setattr(records, "_now", lambda: ago)
    load_model(TINY, pretrained=True)
    for name, days in (("catr/v1", 20), ("catr/v2", 60)):
        release_path(name).parent.mkdir(exist_ok=True)
        release_path(name).write_bytes(name.encode())
        os.utime(release_path(name), (time.time(), time.time() - days * 86_400))
    contents = cache_contents()
    for days, expected in (
        (10, {"owner/tiny", "catr/v1", "catr/v2"}),
        (30, {"owner/tiny", "catr/v2"}),
        (50, {"catr/v2"}),
        (90, set()),
    ):
        assert {item.name for item in select_items(contents, [str(days)])} == expected
    monkeypatch.undo()
    monkeypatch.setenv("VITRINE_CACHE", str(cache))
    note_use(release_path("catr/v2"), RELEASES["catr/v2"])
    assert {item.name for item in select_items(cache_contents(), ["50"])} == set()


def test_nothing_that_is_not_ours_is_touched(
    hub: StandInHub, cache: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    """Files that do not belong there, and links that lead out of the folder, wherever something is removed."""
    load_model(TINY, pretrained=True)
    outside = tmp_path / "outside"
    shutil.copytree(cache / "hub" / "models--owner--tiny", outside / "models--owner--linked", symlinks=True)
    (cache / "hub" / "models--owner--linked").symlink_to(outside / "models--owner--linked")
    (outside / "pets").mkdir()
    (outside / "pets" / "cat.jpg").write_bytes(b"cat")
    (cache / "oxford-iiit-pet").symlink_to(outside / "pets")
    (outside / "weights.pth").write_bytes(b"weights")
    release_path("catr/v3").parent.mkdir()
    release_path("catr/v3").symlink_to(outside / "weights.pth")
    (cache / "datasets").mkdir()
    (cache / "datasets" / "owner___set").symlink_to(outside / "pets")
    (cache / "notes.txt").write_text("mine")
    (cache / "folder").mkdir()
    (cache / "folder" / "mine").write_text("too")
    (cache / "hub" / "models--owner--broken").mkdir()  # without snapshots: the hub's library cannot read it
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}

    unknown = {Path(each["path"]).name for each in json.loads(vitrine_command("cache", "--json")[1])["unknown"]}
    ours = {"notes.txt", "folder", "models--owner--linked", "models--owner--broken", release_path("catr/v3").name}
    assert unknown == ours
    status, out, _ = vitrine_command("cache", "--prune", "0", "--yes", "--json")
    assert status == 0 and [each["name"] for each in json.loads(out)["removed"]] == ["owner/tiny"]
    assert before == {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    assert (cache / "notes.txt").read_text() == "mine" and (cache / "folder" / "mine").exists()
    assert release_path("catr/v3").is_symlink() and (cache / "hub" / "models--owner--linked").is_symlink()
    status, _, error = vitrine_command("cache", "--prune", "notes.txt", "--yes")
    assert status == 2 and "nothing of that name was downloaded" in error and len(error.strip().splitlines()) == 2


def test_a_link_inside_a_repository_that_leads_out_is_not_followed(
    hub: StandInHub, cache: Path, tmp_path: Path
) -> None:
    load_model(TINY, pretrained=True)
    (snapshot,) = (cache / "hub" / "models--owner--tiny" / "snapshots").iterdir()
    (tmp_path / "secret").write_text("secret")
    (snapshot / "link").symlink_to(tmp_path / "secret")
    contents = cache_contents()
    assert {each.name for each in contents.items[0].files} == {"config.json", "model.safetensors"}
    (cache / "oxford-iiit-pet").mkdir()
    pets = next(item for item in cache_contents().items if item.name == "oxford-pets")
    (cache / "oxford-iiit-pet").rmdir()
    (cache / "oxford-iiit-pet").symlink_to(tmp_path)  # since it was listed
    result = prune(contents, [pets, *contents.items])
    assert result.items == () and result.failure is not None and "leads out of" in result.failure
    assert "Not removed, nor anything after it" in result.text() and cache_contents().items == contents.items
    prune(contents, contents.items)
    assert (tmp_path / "secret").read_text() == "secret"


def test_blobs_that_lie_elsewhere_are_left_there(hub: StandInHub, cache: Path, tmp_path: Path) -> None:
    """As where a person moved the large files to another disk and linked them."""
    load_model(f"{TINY}@v1", pretrained=True)
    save_for_hub(tmp_path / "there", seed=9)
    hub.commit = LATER
    load_model(f"{TINY}@v2", pretrained=True)
    blobs = cache / "hub" / "models--owner--tiny" / "blobs"
    shutil.move(blobs, tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    before = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    contents = cache_contents()
    result = prune(contents, select_items(contents, ["owner/tiny@c0ffee"]))
    assert result.items == () and result.failure is not None and "leads out of" in result.failure
    prune(contents, contents.items)
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == before


def test_data_sets_and_unfinished_downloads_can_be_pruned(cache: Path, vitrine_command: Command) -> None:
    for path in ("oxford-iiit-pet/images/cat.jpg", "datasets/owner___set/default/set.arrow", "catr/w.12.part"):
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_bytes(b"1234567")
    (cache / "hub" / "models--a--b" / "blobs").mkdir(parents=True)
    (cache / "hub" / "models--a--b" / "snapshots").mkdir()
    (cache / "hub" / "models--a--b" / "blobs" / "abc.incomplete").write_bytes(b"1")
    items = json.loads(vitrine_command("cache", "--json")[1])["items"]
    assert {(each["name"], each["kind"], each["size"]) for each in items} == {
        ("oxford-pets", "data set", 7),
        ("hf:owner/set", "data set", 7),
        ("unfinished", "unfinished", 7),
        ("unfinished", "unfinished", 1),
    }
    arguments = [word for name in ("oxford-pets", "hf:owner/set", "unfinished") for word in ("--prune", name)]
    assert vitrine_command("cache", *arguments, "--yes")[0] == 0
    assert cache_contents().items == () and not list(cache.rglob("*.part")) and not (cache / "oxford-iiit-pet").exists()


def test_what_cannot_be_removed_is_not_said_to_be(
    hub: StandInHub, cache: Path, vitrine_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's library only logs it."""
    load_model(TINY, pretrained=True)

    def deny(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", deny)
    status, out, _ = vitrine_command("cache", "--prune", "owner/tiny", "--yes", "--json")
    content = json.loads(out)
    assert (status, content["removed"], content["freed"]) == (1, [], 0) and "could not be removed" in content["failed"]


def test_data_sets_go_into_the_same_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import constants

    from vitrine.data.sources import open_data
    from vitrine.errors import DataError

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    cells = {"image": [{"bytes": b"1", "path": None}] * 8, "label": [0, 1] * 4}
    (tmp_path / "tables").mkdir()
    datasets.Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "tables" / "train.parquet")
    open_data(str(tmp_path / "tables"))
    (item,) = cache_contents().items
    assert (item.name, item.kind) == ("parquet", "data set") and item.last_used is not None

    calls = []

    def load(path: str, **settings: object) -> None:
        calls.append((path, settings["cache_dir"], constants.HF_HUB_CACHE))
        raise OSError("not here")

    monkeypatch.setattr(datasets, "load_dataset", load)
    before = constants.HF_HUB_CACHE
    with download_settings(offline=True), pytest.raises(DataError, match="The network was turned off"):
        open_data("hf:owner/set")
    assert calls == [("owner/set", str(cache / "datasets"), str(cache / "hub"))]
    assert before == constants.HF_HUB_CACHE != str(cache / "hub")


def test_a_person_is_asked(
    hub: StandInHub, cache: Path, vitrine_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(TINY, pretrained=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    status, out, error = vitrine_command("cache", "--prune", "owner/tiny")
    assert (status, out) == (2, "") and "add --yes" in error
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    status, out, error = vitrine_command("cache", "--prune", "owner/tiny")
    assert (status, out) == (1, "") and "owner/tiny (model" in error and "Nothing was removed." in error
    assert len(cache_contents().items) == 1
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert vitrine_command("cache", "--prune", "owner/tiny")[0] == 0
    assert cache_contents().items == ()


def test_an_unknown_name_is_told_what_there_is(hub: StandInHub, cache: Path) -> None:
    load_model(TINY, pretrained=True)
    with pytest.raises(UsageError, match=r"owner/tine.*(?s:.*)one of: owner/tiny"):
        select_items(cache_contents(), ["owner/tine"])


# --- downloads that go wrong


def test_a_download_with_another_hash_is_refused_and_not_kept(hub: StandInHub, cache: Path) -> None:
    hub.faults["model.safetensors"] = Fault(flip_at=-1)
    with pytest.raises(WeightsUnavailableError, match="is damaged") as error:
        load_model(TINY, pretrained=True)
    assert len(str(error.value).splitlines()) == 2
    assert not list(cache.rglob("model.safetensors"))
    assert all(path.stat().st_size < 5_000 for path in cache.rglob("blobs/*"))
    hub.faults.clear()
    assert load_model(TINY, pretrained=True).weights is not None


def test_a_cached_file_that_was_changed_is_refused_and_left_to_its_owner(hub: StandInHub, cache: Path) -> None:
    weights = load_model(TINY, pretrained=True).weights
    assert weights is not None
    blob = weights.path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    os.utime(blob, (time.time(), time.time() - 60))
    with pytest.raises(WeightsUnavailableError, match=r"was changed or is damaged(?s:.*)--prune owner/tiny") as error:
        load_model(TINY, pretrained=True)
    assert len(str(error.value).splitlines()) == 2 and blob.exists()
    prune(cache_contents(), select_items(cache_contents(), ["owner/tiny"]))
    assert load_model(TINY, pretrained=True).weights is not None


def test_a_disk_that_is_full(hub: StandInHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str, stream: object, **__: object) -> None:
        stream.write(b"some")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(WeightsUnavailableError, match=r"No space left on device\.\nMake room, or choose another"):
            load_model(TINY, pretrained=True)
    assert not list(cache.rglob("*incomplete*")) and not list(cache.rglob("config.json"))

    def full_too(_: str, path: Path, __: object) -> None:
        path.write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(catr, "download", full_too)
    with pytest.raises(WeightsUnavailableError, match=r"No space left on device\.\nMake room, or choose another"):
        catr.fetch_release("catr/v3")
    assert not list((cache / "catr").iterdir())


@pytest.mark.parametrize("below", [".", "below"])
def test_a_cache_folder_that_is_a_file(
    below: str, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "file" / below))
    for load in (lambda: load_model(TINY, pretrained=True), lambda: catr.fetch_release("catr/v3")):
        with pytest.raises(WeightsUnavailableError, match=r"cannot be saved in(?s:.*)--cache DIR") as error:
            load()
        assert len(str(error.value).splitlines()) == 2


# --- no network


UNCACHED = (
    ("check", "hf:owner/set"),
    ("check", "oxford-pets"),
    ("train", "DATA", "--recipe", "pets-b16-224-bs16", "-o", "OUT"),
    ("train", "DATA", "--recipe", "scratch-tiny", "-o", "OUT", "--set", f"model={TINY}"),
    ("train", "oxford-pets", "--recipe", "scratch-tiny", "-o", "OUT"),
    ("evaluate", TINY, "DATA"),
    ("evaluate", "vitrine/scenes-tiny", "hf:owner/set"),
    ("predict", "vit_base_patch16_224.orig_in21k", "DATA", "-o", "OUT"),
    ("explain", TINY, "DATA", "-o", "OUT"),
    ("explain", TINY, "--score", "DATA", "-o", "OUT"),
    ("positions", TINY, "-o", "OUT.png"),
    ("caption", "catr/v3", "DATA", "-o", "OUT"),
    ("caption", TINY, "DATA", "-o", "OUT"),
)


@pytest.mark.parametrize("arguments", UNCACHED, ids=lambda arguments: " ".join(arguments[:3]))
def test_offline_asks_nobody(
    arguments: tuple[str, ...],
    cache: Path,
    connections: list[str],
    small_scenes: Path,
    tmp_path: Path,
    vitrine_command: Command,
) -> None:
    words = {"DATA": small_scenes, "OUT": tmp_path / "out", "OUT.png": tmp_path / "out.png"}
    status, out, error = vitrine_command(*(words.get(word, word) for word in arguments), "--offline")
    assert connections == []
    message = error[error.index("vitrine: ") :].strip()
    assert (status, out) == (2, "") and "etwork was turned off" in message
    assert len(message.splitlines()) == 2


def test_without_offline_the_network_would_be_asked(
    cache: Path, connections: list[str], small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    """The check of the check above."""
    assert vitrine_command("predict", TINY, small_scenes, "-o", tmp_path / "p.csv")[0] == 2
    assert connections


def test_offline_takes_what_is_there(
    hub: StandInHub,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    small_scenes: Path,
    tmp_path: Path,
    vitrine_command: Command,
) -> None:
    load_model(TINY, pretrained=True)
    connections = request.getfixturevalue("connections")
    picture = next((small_scenes / "test").rglob("*.png"))
    status, _, error = vitrine_command("predict", "--offline", TINY, picture, "-o", tmp_path / "p.csv")
    assert (status, connections) == (0, []) and "hf-hub:owner/tiny/model.safetensors" in error
    status, _, error = vitrine_command("--offline", "predict", TINY, picture, "-o", tmp_path / "p.csv")
    assert (status, connections) == (0, []), error


# --- which file, and whether it is still the one it was


def test_every_verb_says_which_file_it_uses(
    small_run: Path, small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    picture = next((small_scenes / "test").rglob("*.png"))
    few = ("--limit", 4, "--method", "attention", "--curves", 4)
    for arguments in (
        ("evaluate", small_run, small_scenes, "--split", "validation"),
        ("predict", small_run, picture, "-o", tmp_path / "p.csv"),
        ("explain", small_run, picture, "-o", tmp_path / "maps"),
        ("explain", small_run, "--score", small_scenes, "-o", tmp_path / "scores", *few),
        ("positions", small_run, "-o", tmp_path / "positions.png"),
    ):
        status, out, error = vitrine_command(*arguments)
        assert status == 0, error
        assert f"Weights: {small_run / 'model.safetensors'}.\n" in error and "has changed" not in error
        assert "Weights:" not in out
    status, _, error = vitrine_command(
        "positions", small_run, "--before", "vitrine/scenes-tiny", "-o", tmp_path / "b.png"
    )
    assert status == 2 or error.count("Weights: ") == 2


def test_a_model_that_changed_under_its_name_is_noticed(
    hub: StandInHub, small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    predict = ("predict", TINY, small_scenes / "validation", "-o", tmp_path / "p.csv")
    first = sha256(tmp_path / "there" / "model.safetensors")
    for _ in range(2):
        assert "has changed" not in vitrine_command(*predict)[2]
    save_for_hub(tmp_path / "there", seed=9)
    hub.commit, second = LATER, sha256(tmp_path / "there" / "model.safetensors")
    day = datetime.now(UTC).date().isoformat()
    error = vitrine_command(*predict)[2]
    assert (
        f"hf-hub:owner/tiny/model.safetensors has changed since it was last used here, on {day}: its sha256 was "
        f"{first[:12]} and is {second[:12]}." in error
    )
    records._note.cache_clear()  # as a new process
    assert "has changed" not in vitrine_command(*predict)[2]


def test_a_run_is_resumed_with_other_starting_weights(
    hub: StandInHub, small_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vitrine_command: Command
) -> None:
    from vitrine.train import trainer

    settings = (
        f"model={TINY} pretrained=true image_size=32 epochs=2 batch_size=16 workers=0 precision=fp32 model_args={{}}"
    )
    train = ("train", small_scenes, "-o", tmp_path / "run")
    original = trainer.Trainer._save_checkpoint

    def save_and_stop(session: trainer.Trainer) -> None:
        original(session)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_save_checkpoint", save_and_stop)
        status, _, error = vitrine_command(*train, "--recipe", "scenes-tiny", "--set", settings)
    assert status == 130, error
    assert "has changed" not in error and "have changed" not in error
    begin = json.loads((tmp_path / "run" / "environment.json").read_text())["starting_weights"]["sha256"]
    save_for_hub(tmp_path / "there", seed=9)
    hub.commit = LATER
    records._note.cache_clear()
    status, _, error = vitrine_command(*train, "--resume")
    now = sha256(tmp_path / "there" / "model.safetensors")
    assert status == 0, error
    assert "hf-hub:owner/tiny/model.safetensors has changed since it was last used here" in error
    assert (
        f"have changed since this run was begun: their sha256 was {begin[:12]} and is {now[:12]}. The training goes on "
        "from its own state, made with the former." in error
    )
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["starting_weights"]["sha256"] == begin


def test_a_run_whose_weights_were_changed_is_noticed(
    small_run: Path, small_scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    before = json.loads((run / "metrics.json").read_text())["weights_sha256"]
    assert before == sha256(run / "model.safetensors")
    tensors = load_file(run / "model.safetensors")
    tensors["head.bias"] += 1
    save_file(tensors, run / "model.safetensors", metadata={"format": "pt"})
    status, _, error = vitrine_command("evaluate", run, small_scenes, "--split", "validation")
    assert status == 0
    assert (
        f"{run / 'model.safetensors'} has changed since the run's metrics were written: its sha256 was {before[:12]} "
        f"and is {sha256(run / 'model.safetensors')[:12]}." in error
    )
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["weights_sha256"]  # as an earlier version wrote it
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "has changed" not in vitrine_command("evaluate", run, small_scenes, "--split", "validation")[2]


def test_a_release_says_where_it_is_from(cache: Path, tmp_path: Path) -> None:
    """And that another file lies under its name now; the sentences are those that ``vitrine caption`` prints."""
    path = release_path("catr/v3")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    catr.fetch_release("catr/v3")
    weights = WeightsFile(path, RELEASES["catr/v3"])
    assert weights_notes(weights) == (f"Weights: {path} ({RELEASES['catr/v3']}).",)
    path.write_bytes(b"other weights")
    assert "has changed since it was last used here" in weights_notes(weights)[1]
    assert note_use(tmp_path, "elsewhere").sha256 is None and list(read_records(cache)) == ["catr/weight493084032.pth"]
