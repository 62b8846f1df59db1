"""``vitrine report``: what it says follows from the files of the runs, and the page needs nothing but itself."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from math import sqrt
from pathlib import Path

import pytest
from support.made_runs import made_captioner, made_run, run_verb

from vitrine.cli.report import report as verb
from vitrine.compare.run import compare
from vitrine.errors import DataError, RunError, UsageError
from vitrine.io import untrusted_files
from vitrine.metrics.intervals import wilson
from vitrine.plotting.tables import Table
from vitrine.report.document import (
    BulletList,
    Details,
    Document,
    Finding,
    Findings,
    Number,
    Numbers,
    Paragraph,
    Section,
    TableBlock,
)
from vitrine.report.html import render_html
from vitrine.report.markdown import write_markdown
from vitrine.report.run import ReportSettings, write_report
from vitrine.report.sections.maps import choose_pictures
from vitrine.report.sections.provenance import build_limits_section
from vitrine.report.sections.summary import build_result_section, build_settings_section, choose_final
from vitrine.runs.find import find_runs
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import read_record


def rights(n: int, *wrong: range) -> list[bool]:
    return [not any(i in each for each in wrong) for i in range(n)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs on one set of 200 pictures, one of them with a second seed, and one run on other pictures."""
    made_run(tmp_path / "runs" / "good", rights(200, range(10)), batch_size=8)
    made_run(tmp_path / "runs" / "good-too", rights(200, range(4, 16)), batch_size=8, seed=1)
    made_run(tmp_path / "runs" / "poor", rights(200, range(60)), batch_size=64)
    made_run(tmp_path / "runs" / "other", rights(50), pictures="another set", batch_size=8)
    return tmp_path / "runs"


def sections(folder: Path, reference: str | None = None) -> tuple[str, str]:
    """The final section and the limits, as text."""
    records = {name: read_record(name, run) for name, run in find_runs([str(folder)]).runs.items()}
    comparison = compare([str(folder)])
    final = choose_final(comparison, records, reference)
    assert final is not None
    limits = build_limits_section(final, comparison, records, {}, has_scores=False, map_count=6)
    return tuple(" ".join(words(each)) for each in (build_result_section(final, comparison, records), limits))


def words(section: Section) -> list[str]:
    texts: list[str] = []
    for block in section.blocks:
        texts += [block.words] if isinstance(block, Paragraph) else []
        texts += list(block.items) if isinstance(block, BulletList) else []
        texts += [f"{each.flag}: {each.sentence}" for each in block.items] if isinstance(block, Findings) else []
        texts += (
            [f"{each.value} {each.name} {each.detail}" for each in block.items] if isinstance(block, Numbers) else []
        )
    return texts


def test_the_best_of_the_largest_group_is_final_although_another_is_right_more_often(runs: Path) -> None:
    result, limits = sections(runs)
    assert "The final result is good." in result  # "other" has 1.0, on 50 pictures of its own
    assert "highest accuracy of 3 runs measured on the same 200 validation pictures" in result
    assert "0.9500 validation accuracy 95 % interval over pictures 0.9104 to 0.9726, n = 200" in result  # by hand
    assert "it is better than poor; it cannot be told from good-too" in result
    assert "trained with 2 seeds: mean accuracy 0.9450, range 0.9400 to 0.9500" in result
    assert f"{100 * sqrt(0.95 * 0.05 / 200):.2f} points" in result
    assert "Test pictures: the accuracy is of the validation pictures" in limits
    assert "Other seeds" not in limits and "no methods were scored" in limits


def test_the_tests_of_captioners_are_in_the_open(runs: Path) -> None:
    """Beside those of the final result; of each kind of test it is said what it is."""
    humans = [["a red star", "a star"]] * 12
    made_captioner(runs / "c0", ["a red star"] * 12, humans, seed=0)
    made_captioner(runs / "c1", ["a blue moon"] * 12, humans, seed=1)
    comparison = compare([str(runs)])
    records = {row.name: read_record(row.name, RunFolder(runs / row.name)) for row in comparison.rows}
    final = choose_final(comparison, records)
    section = build_settings_section(comparison, final)
    (findings,) = [block for block in section.blocks if isinstance(block, Findings)]
    sentences = [finding.sentence for finding in findings.items]
    assert sum("good" in sentence for sentence in sentences) == 2 and len(sentences) == 4
    assert any("c0 gives human captions word for word more often than c1" in sentence for sentence in sentences)
    assert any("c0 is nearer to the human captions than c1" in sentence for sentence in sentences)
    assert "exact McNemar test" in " ".join(words(section)) and "exact sign test" in " ".join(words(section))


def test_a_person_may_name_the_final_result_and_hears_that_others_did_better(runs: Path) -> None:
    result, _ = sections(runs, "poor")
    assert (
        "named by hand: of 3 runs measured on the same 200 validation pictures, 2 reached a higher accuracy" in result
    )
    assert "it is worse than good and good-too" in result
    with pytest.raises(UsageError, match="names none of the runs: "):
        sections(runs, "nothing")


def test_one_run_alone_is_said_to_be_alone_and_its_seed_too(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "only", rights(40, range(4)))
    result, limits = sections(tmp_path / "runs")
    assert "the only run" in result and "flattered" not in result and "one seed" in result
    assert "By exact tests" not in result
    assert "None of the 40 validation pictures also stands in training, byte for byte" in result
    assert "Whether validation pictures look like copies of training pictures: vitrine check pets says so" in limits


def test_seeds_that_drew_other_validation_pictures_are_seeds_but_no_range(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = made_run(tmp_path / "runs" / f"s{seed}", rights(40, range(seed)), seed=seed, pictures=f"set {seed}")
        data = json.loads((run / "data.json").read_text())
        data["splits"]["train"] = data["splits"]["train"][seed:]
        (run / "data.json").write_text(json.dumps(data))
    result, limits = sections(tmp_path / "runs")
    assert "trained with 2 seeds, which also drew different validation pictures" in result
    assert "lie between" not in result and "Other seeds" not in limits


def test_a_tie_is_only_said_to_be_broken_where_it_is(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "a", rights(40, range(4)), loss=0.4)
    made_run(tmp_path / "runs" / "b", rights(40, range(4)), loss=0.4, batch_size=8)
    result, _ = sections(tmp_path / "runs")
    assert "b reached the same." in result and "lower loss" not in result
    made_run(tmp_path / "runs" / "b", rights(40, range(4)), loss=0.3, batch_size=8)
    result, _ = sections(tmp_path / "runs")
    assert "a reached the same; it has the lower loss." in result and "final result is b" in result


def test_without_a_mistake_no_error_of_zero_is_claimed(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "perfect", rights(40))
    result, _ = sections(tmp_path / "runs")
    assert "1.0000 validation accuracy" in result and "standard error" not in result


def test_commands_of_odd_names_can_be_pasted(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "a b,seed=0", rights(40, range(4)), reference="scenes:base?validation=3&test=3")
    _, limits = sections(tmp_path / "runs")
    assert f"vitrine verify '{tmp_path}/runs/a b,seed=0'" in limits
    assert "vitrine check 'scenes:base?validation=3&test=3'" in limits


def test_a_final_run_is_not_mistaken_for_its_namesake(runs: Path) -> None:
    result, _ = sections(runs, "runs/poor")
    assert "final result is poor" in result
    with pytest.raises(UsageError, match="names none"):
        sections(runs, "elsewhere/poor")


def test_pictures_that_also_stand_in_training_are_a_finding_beside_the_result(tmp_path: Path) -> None:
    run = made_run(tmp_path / "runs" / "only", rights(40, range(4)))
    data = json.loads((run / "data.json").read_text())
    for place in (3, 5):
        data["splits"]["validation"][place]["sha256"] = data["splits"]["train"][place]["sha256"]
    (run / "data.json").write_text(json.dumps(data))
    result, limits = sections(tmp_path / "runs")
    ends = wilson(35, 38)  # one of the two is right
    interval = f"95 % interval over pictures {ends.low:.4f} to {ends.high:.4f}, n = 38"
    assert f"0.9211 validation accuracy without the 2 in training too {interval}" in result
    assert (
        "leak: 2 of the 40 validation pictures also stand in training, byte for byte. Without them the accuracy is "
        f"0.9211 ({interval}); with all pictures it is 0.9000 (n = 40)." in result
    )
    assert "byte for byte" not in limits


def evaluation_of(run: Path, weights: bytes, **changes: object) -> None:
    """Weights, and an evaluation of them on 100 test pictures of which 91 are right."""
    (run / "model.safetensors").write_bytes(weights)
    content = json.loads((run / "metrics.json").read_text())
    content |= {
        "split": "test",
        "data": "pets",
        "n": 100,
        "accuracy": 0.91,
        "confusion": {"cat": {"cat": 46, "dog": 4}, "dog": {"cat": 5, "dog": 45}},
    }
    content |= {"accuracy_interval_95": [0.8377, 0.9519], "weights_sha256": hashlib.sha256(weights).hexdigest()}
    (run / "test").mkdir()
    (run / "test" / "metrics.json").write_text(json.dumps(content | changes))


def test_a_recorded_test_result_comes_first_where_it_is_of_these_weights(runs: Path) -> None:
    evaluation_of(runs / "good", b"weights")
    result, limits = sections(runs)
    assert result.index("0.9100 test accuracy") < result.index("0.9500 validation accuracy")
    assert "On 100 test pictures (pets), which chose nothing here, 91 labels are right: 0.9100" in result
    assert f"{100 * sqrt(0.91 * 0.09 / 100):.2f} points (binomial, 100 test pictures)" in result
    assert "Test pictures:" not in limits


@pytest.mark.parametrize("changes", [{"weights_sha256": "0" * 64}, {"split": "validation"}])
def test_an_evaluation_of_other_weights_or_another_split_is_not_used_and_that_is_said(
    runs: Path, changes: dict
) -> None:
    evaluation_of(runs / "good", b"weights", **changes)
    result, limits = sections(runs)
    assert "test accuracy" not in result
    assert "one lies there, of other weights or another split" in limits


def test_a_damaged_evaluation_is_named(runs: Path) -> None:
    evaluation_of(runs / "good", b"weights")
    (runs / "good" / "test" / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"test/metrics.json cannot be read .* Remove it"):
        sections(runs)


def test_default_pictures_are_two_of_each_kind_and_of_different_classes(small_run: Path, small_scenes: Path) -> None:
    record = read_record("run", find_runs([str(small_run)]).runs[small_run.name])
    pictures = choose_pictures(record, str(small_scenes))
    kinds = [each.why for each in pictures]
    order = ("surest and right", "surest and wrong", "least sure")
    assert set(kinds) <= set(order) and kinds == sorted(kinds, key=order.index)
    for each in pictures:
        assert record.true_labels[each.sample.name] == each.true
        if each.why != "least sure":
            assert record.is_correct(each.sample.name) == (each.why == "surest and right")
    assert max(map(kinds.count, kinds)) <= 2 and len({each.sample.name for each in pictures}) == len(pictures)


SHARP = "<script>alert(\"x\")</script> & 'q' | `c` [l](u) *b* _i_"


def sharp_document() -> Document:
    """Every kind of text with every sign that means something in HTML or Markdown."""
    table = Table((SHARP, "n"), ((SHARP, 12), ("b", 1_000)), final=1)
    blocks = (
        Paragraph(SHARP, "lead"),
        Numbers((Number("0.5", SHARP, SHARP, is_main=True),)),
        Findings((Finding("supported", SHARP), Finding("", SHARP))),
        TableBlock(table, SHARP),
        BulletList((SHARP,)),
        Details(SHARP, (Paragraph(SHARP),)),
    )
    return Document(SHARP, SHARP, (Section("one", SHARP, blocks),), SHARP, {"text": f"{SHARP}</script>\u2028"})


def test_nothing_in_a_name_becomes_markup_or_code() -> None:
    page = render_html(sharp_document())
    assert "<script>alert" not in page
    assert page.count("</script>") == 2  # facts and code
    assert html.escape(SHARP, quote=False).split("'")[0] in page.replace("&#34;", '"')
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)
    assert facts is not None and json.loads(facts[1]) == {"text": f"{SHARP}</script>\u2028"}


def test_the_policy_names_the_hash_of_the_only_script() -> None:
    import base64

    page = render_html(sharp_document())
    code = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    assert code is not None
    digest = base64.b64encode(hashlib.sha256(code[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1] and f"script-src 'sha256-{digest}'" in policy[1]
    assert not re.search(r'(src|href)="(?!#|data:)', page), "an address outside of the page"


def test_markdown_says_the_same_and_escapes_it(tmp_path: Path) -> None:
    first, *_ = write_markdown(sharp_document(), tmp_path / "report.md")
    text = first.read_text()
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert r"\*b\* \_i\_" in text and "**0.5**" in text and "| **b** | **1,000** |" in text


def test_the_final_row_is_marked_and_numbers_stand_to_the_right() -> None:
    page = render_html(sharp_document())
    assert re.search(r'<tr class="final"><th scope="row">b</th><td class="number">1,000</td></tr>', page)


@pytest.fixture(scope="module")
def page(small_run: Path, small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report of a small run that was trained, with Markdown; and the run."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(small_run, folder / "run")
    out = folder / "report.html"
    write_report([str(folder / "run")], out, ReportSettings(data=str(small_scenes), markdown=True, score=4))
    return out, folder / "run"


def visible(page: str) -> str:
    """The text of a page, as a person reads it."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_the_numbers_of_the_page_are_those_of_the_run(page: tuple[Path, Path]) -> None:
    out, run = page
    text, metrics = visible(out.read_text("utf-8")), json.loads((run / "metrics.json").read_text())
    low, high = metrics["accuracy_interval_95"]
    assert f"{metrics['accuracy']:.4f} 95 % interval over pictures {low:.4f} to {high:.4f}, n = {metrics['n']}" in text
    assert f"{metrics['expected_calibration_error']:.4f}" in text
    for entry in metrics["classes"]:
        recall = "–" if entry["recall"] is None else f"{entry['recall']:.3f} ("
        precision = "–" if entry["precision"] is None else f"{entry['precision']:.3f}"
        assert re.search(rf"{entry['label']} {re.escape(recall)}[^)]*\)? ?{precision} {entry['support']}", text), entry
    assert hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest() in text
    for heading in ("The final result", "Settings and what came out", "Learning curves", "Class by class"):
        assert heading in text
    for heading in ("Position embeddings", "What it looks at", "Which maps to trust", "What was not checked"):
        assert text.index("The final result") < text.index(heading) < text.rindex("Where everything comes from")


def test_ids_are_unique_in_the_page_and_all_that_are_referred_to_are_there(page: tuple[Path, Path]) -> None:
    """The figures of lines are drawn into the page, where an id of one would stand for another's."""
    text = page[0].read_text("utf-8")
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert markup.count("<svg ") == 3
    ids = re.findall(r'\sid="([^"]*)"', markup)
    assert len(ids) == len(set(ids)), sorted({each for each in ids if ids.count(each) > 1})
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', markup))
    assert used <= set(ids) and {each.split("-")[0] for each in used} >= {"accuracy", "curves", "methods"}


def test_markdown_has_a_figure_for_every_view_and_all_of_them_exist(page: tuple[Path, Path]) -> None:
    out, _ = page
    text = out.with_suffix(".md").read_text("utf-8")
    figures = re.findall(r"!\[(?:[^\]\\]|\\.)*\]\(<([^>]+)>\)", text)
    assert {"accuracy", "curves", "confusion", "positions", "methods"} <= {Path(each).stem for each in figures}
    assert sum(Path(each).stem.startswith("map-") for each in figures) == out.read_text("utf-8").count(
        '<div data-viewer="map">'
    )
    assert all((out.parent / each).stat().st_size > 1000 for each in figures)


def test_the_same_runs_give_the_same_bytes(page: tuple[Path, Path], small_scenes: Path) -> None:
    out, run = page
    before = out.read_bytes()
    write_report([str(run)], out, ReportSettings(data=str(small_scenes), markdown=True, score=4))
    now = out.read_bytes()

    def without_times(text: bytes) -> bytes:
        return re.sub(rb'<section id="methods".*?</section>', b"", text, flags=re.DOTALL)  # seconds a picture

    assert without_times(now) == without_times(before)


def test_pictures_after_the_first_are_pictures_too_and_a_missing_one_is_named(
    page: tuple[Path, Path], small_scenes: Path, tmp_path: Path
) -> None:
    _, run = page
    one, two = sorted((small_scenes / "validation").rglob("*.png"))[:2]
    status, output = run_verb(verb, run, "-o", tmp_path / "r.html", "--pictures", one, two)
    assert status == 0 and "r.html" in output
    text = (tmp_path / "r.html").read_text("utf-8")
    assert text.count('<div data-viewer="map">') == 2 and one.name in text and two.name in text
    with pytest.raises(Exception, match=r"nothing\.png"):
        run_verb(verb, run, "-o", tmp_path / "s.html", "--pictures", tmp_path / "nothing.png")
    assert not (tmp_path / "s.html").exists()


def test_a_damaged_picture_is_left_out_and_named_unless_a_person_named_it(
    page: tuple[Path, Path], small_scenes: Path, tmp_path: Path
) -> None:
    _, run = page
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(small_scenes, tmp_path / "scenes", ignore=shutil.ignore_patterns("test", "masks"))
    record = read_record("run", find_runs([str(tmp_path / "run")]).runs["run"])
    name = choose_pictures(record, str(tmp_path / "scenes"))[0].sample.name
    path = tmp_path / "scenes" / name
    path.write_bytes(b"no picture")
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    for row in data["splits"]["validation"]:
        if row["name"] == name:
            row["sha256"] = hashlib.sha256(b"no picture").hexdigest()
    (tmp_path / "run" / "data.json").write_text(json.dumps(data))
    out = tmp_path / "r.html"
    write_report([str(tmp_path / "run")], out, ReportSettings(data=str(tmp_path / "scenes")))
    assert f"The map of {name}: " in visible(out.read_text("utf-8"))
    with pytest.raises(DataError, match=r"cannot be used: .*Leave it out of --pictures"):
        write_report([str(tmp_path / "run")], out, ReportSettings(data=str(tmp_path / "scenes"), pictures=(path,)))


def test_a_picture_of_another_content_is_not_shown_for_the_recorded_one(
    page: tuple[Path, Path], small_scenes: Path, tmp_path: Path
) -> None:
    record = read_record("run", find_runs([str(page[1])]).runs[page[1].name])
    shutil.copytree(small_scenes, tmp_path / "scenes", ignore=shutil.ignore_patterns("test", "masks"))
    before = [each.sample.name for each in choose_pictures(record, str(tmp_path / "scenes"))]
    one, other = (tmp_path / "scenes" / name for name in before[:2])
    shutil.copy(other, one)
    assert before[0] not in [each.sample.name for each in choose_pictures(record, str(tmp_path / "scenes"))]


def test_pictures_that_are_gone_leave_a_report_that_says_so(page: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = page
    report = write_report([str(run)], tmp_path / "r.html", ReportSettings(data=str(tmp_path / "nowhere")))
    text = visible((tmp_path / "r.html").read_text("utf-8"))
    assert "Maps: the pictures cannot be opened" in text and "--data says where" in text
    assert report.document.sections[0].key == "result"


def test_every_run_is_read_once(page: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        shutil.copytree(page[1], tmp_path / "runs" / name)
    paths: list[Path] = []
    read_file = untrusted_files.read_file

    def note_path(path: Path, limit: int) -> bytes:
        paths.append(path)
        return read_file(path, limit)

    monkeypatch.setattr(untrusted_files, "read_file", note_path)
    write_report([str(tmp_path / "runs")], tmp_path / "r.html", ReportSettings(data=str(tmp_path / "nowhere")))
    for name in ("one", "other"):
        for file in ("data.json", "metrics.json"):
            assert paths.count(tmp_path / "runs" / name / file) == 1, f"{name}/{file}"


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.md"])
def test_only_a_page_can_be_written(page: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"ends in \.html"):
        write_report([str(page[1])], tmp_path / name)
