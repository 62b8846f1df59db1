"""``vitrine serve --report``: the page on the runs that are served, which runs no code but its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.serving import app_state_of, client_of

from vitrine.errors import RunError
from vitrine.report.html import content_security_policy
from vitrine.serve.server import open_app_state
from vitrine.serve.settings import ServeSettings


def test_the_report_is_served_under_its_own_policy(small_run: Path) -> None:
    state = open_app_state([str(small_run), "vitrine/scenes-tiny"], ServeSettings(), report=True)
    with client_of(state) as client:
        page = client.get("/report")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        csp = page.headers["content-security-policy"]
        assert csp.startswith(content_security_policy()) and "frame-ancestors 'none'" in csp
        inside = re.search(r'Content-Security-Policy" content="([^"]*)"', page.text)
        assert inside is not None and inside[1] == content_security_policy()
        assert "The final result" in page.text and small_run.name in page.text
        assert client.get("/api/models").json()["report"] is True
        assert "script-src 'self'" in client.get("/").headers["content-security-policy"]


def test_without_it_there_is_none_and_a_sentence_says_how(small_run: Path) -> None:
    with client_of(app_state_of(small_run)) as client:
        answer = client.get("/report")
        assert answer.status_code == 404 and "--report" in answer.json()["error"]
        assert client.get("/api/models").json()["report"] is False


def test_what_is_no_run_has_no_report(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    for name in ("model.safetensors", "config.json", "labels.txt"):
        shutil.copy(small_run / name, tmp_path / "exported" / name)
    with pytest.raises(RunError):
        open_app_state([str(tmp_path / "exported")], ServeSettings(), report=True)


def test_a_folder_of_runs_stands_for_them(small_run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(small_run, tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "comparison").mkdir()
    state = open_app_state([str(tmp_path / "sweep"), "vitrine/scenes-tiny"], ServeSettings())
    assert [model.reference for model in state.models.values()] == [
        str(tmp_path / "sweep" / "one"),
        str(tmp_path / "sweep" / "two"),
        "vitrine/scenes-tiny",
    ]
