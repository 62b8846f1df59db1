"""Where figures say they come from: written, read back, and read safely from hostile files."""

from __future__ import annotations

import io
import json
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import vitrine
from vitrine.errors import DataError
from vitrine.explain.inspect import inspect_figure
from vitrine.plotting.provenance import Provenance, read_provenance
from vitrine.plotting.style import figure_style, new_figure, save

COMMAND = shlex.join(["vitrine", "explain", "runs/pets", "für dich/cat $1.jpg", "-o", "maps", "--layer", "-1"])
WHOLE = Provenance(
    figure="attention map",
    model="runs/pets",
    weights_sha256="ab" * 32,
    picture="für dich/cat $1.jpg",
    picture_sha256="cd" * 32,
    method="attention",
    layer="11 of 0 to 11",
    heads="mean",
    target="Bengal",
    precision="fp32",
    options={"stretch": False, "note": "a <b> & \"c\" 'd'"},
    command=COMMAND,
)


def write(path: Path, metadata: dict[str, str]) -> Path:
    with figure_style():
        figure = new_figure(0.2, 0.2)
    save(figure, path, metadata)
    return path


def png(path: Path, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of one pixel with chunks of any kind."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


SVG = """<?xml version="1.0" encoding="utf-8"?>
{doctype}<svg xmlns="http://www.w3.org/2000/svg"><metadata>
<rdf:RDF xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:cc="http://creativecommons.org/ns#"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work><dc:description>{description}</dc:description>
<dc:creator><cc:Agent><dc:title>vitrine 0.1.0</dc:title></cc:Agent></dc:creator></cc:Work></rdf:RDF></metadata>
{after}</svg>"""


def svg(path: Path, description: str = '{"a": "b"}', doctype: str = "", after: str = "") -> Path:
    path.write_text(SVG.format(doctype=doctype, description=description, after=after), "utf-8")
    return path


# --- written and read back


def test_the_keys_are_those_that_are_promised() -> None:
    metadata = WHOLE.to_metadata()
    names = (
        "figure version model weights-sha256 picture picture-sha256 method layer heads target precision options command"
    )
    assert list(metadata) == [f"vitrine:{name}" for name in names.split()]
    assert metadata["vitrine:version"] == vitrine.__version__
    assert json.loads(metadata["vitrine:options"]) == WHOLE.options
    assert list(json.loads(metadata["vitrine:options"])) == ["note", "stretch"]  # the same options, the same bytes
    assert Provenance("positions").to_metadata() == {
        "vitrine:figure": "positions",
        "vitrine:version": vitrine.__version__,
    }


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_what_was_written_is_read(ending: str, tmp_path: Path) -> None:
    metadata = WHOLE.to_metadata()
    path = write(tmp_path / f"map.{ending}", metadata)
    assert read_provenance(path) == {"Software": f"vitrine {vitrine.__version__}", **metadata}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("\0\ufffe\uffff", "a\r\n\t<&>]]>", "svg")
@example("\0\ufffe\uffff", "a\r\n\t<&>]]>", "png")
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(max_size=20), st.sampled_from(["png", "svg"]))
def test_any_name_survives(tmp_path: Path, picture: str, command: str, ending: str) -> None:
    """Names with any letters are read as written; what no file can hold comes back escaped."""
    metadata = Provenance("map", picture=picture, command=command).to_metadata()
    texts = read_provenance(write(tmp_path / f"map.{ending}", metadata))
    assert texts["vitrine:picture"] == metadata["vitrine:picture"]
    assert texts["vitrine:command"] == metadata["vitrine:command"]
    assert not set(texts["vitrine:picture"]) & set("\0\ufffe\uffff")
    if not set(picture) & set("\0\ufffe\uffff"):
        assert metadata["vitrine:picture"] == picture


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    metadata = Provenance("map", picture=b"b\xe4r.jpg".decode("utf-8", "surrogateescape")).to_metadata()
    for ending in ("png", "svg"):
        assert read_provenance(write(tmp_path / f"a.{ending}", metadata))["vitrine:picture"] == r"b\xe4r.jpg"


# --- inspect


def test_an_inspection_names_everything_and_ends_with_the_command(tmp_path: Path) -> None:
    lines = inspect_figure(write(tmp_path / "map.png", WHOLE.to_metadata())).text().splitlines()
    assert lines[0] == str(tmp_path / "map.png")
    rows = dict(line.strip().split("  ", 1) for line in lines[1 : lines.index("")])
    assert {key: value.strip() for key, value in rows.items()} == {
        "figure": "attention map",
        "model": "runs/pets",
        "weights sha256": "ab" * 32,
        "picture": "für dich/cat $1.jpg",
        "picture sha256": "cd" * 32,
        "method": "attention",
        "layer": "11 of 0 to 11",
        "heads": "mean",
        "target": "Bengal",
        "precision": "fp32",
        "note": "a <b> & \"c\" 'd'",
        "stretch": "false",
        "made with": f"vitrine {vitrine.__version__}",
    }
    starts = {len(line) - len(line.strip().split("  ", 1)[1].strip()) for line in lines[1 : lines.index("")]}
    assert len(starts) == 1  # values stand in one column
    assert lines[-2:] == ["To draw it again:", f"  {COMMAND}"]


def test_an_inspection_as_json(tmp_path: Path) -> None:
    inspection = inspect_figure(write(tmp_path / "map.svg", WHOLE.to_metadata()))
    content = json.loads(json.dumps(inspection.to_dict()))
    assert content["file"] == str(tmp_path / "map.svg")
    assert content["software"] == f"vitrine {vitrine.__version__}"
    assert content["provenance"]["weights-sha256"] == "ab" * 32
    assert content["provenance"]["options"] == WHOLE.options
    assert content["other"] == {}


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_figures_that_are_no_maps_are_shown_too(ending: str, tmp_path: Path) -> None:
    origin = {"model": "runs/pets", "weights_sha256": "ab" * 32, "data": "photos", "split": "test"}
    inspection = inspect_figure(write(tmp_path / f"confusion.{ending}", origin))
    assert inspection.other == origin
    assert inspection.provenance == {}
    assert inspection.text().splitlines()[1:] == [
        "  model           runs/pets",
        f"  weights sha256  {'ab' * 32}",
        "  data            photos",
        "  split           test",
        f"  made with       vitrine {vitrine.__version__}",
    ]


def test_a_figure_of_another_version_names_both(tmp_path: Path) -> None:
    text = inspect_figure(write(tmp_path / "a.png", Provenance("map", version="9.9").to_metadata())).text()
    assert "  version    9.9\n" in text
    assert f"  made with  vitrine {vitrine.__version__}" in text


def test_an_option_that_cannot_be_read_is_shown_as_it_is(tmp_path: Path) -> None:
    for options in ("{broken", "[1, 2]", "[" * 5000, '{"a": ' * 5000, '{"a": ' * 900 + "1" + "}" * 900):
        inspection = inspect_figure(write(tmp_path / "a.png", {"vitrine:options": options}))
        assert f"  options    {options[:1000]}" in inspection.text()
        assert inspection.to_dict()["provenance"]["options"] == options


def test_inspecting_loads_neither_torch_nor_matplotlib() -> None:
    program = "import sys, vitrine.explain.inspect\nprint([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- hostile files


def test_nothing_in_a_file_can_steer_the_terminal(tmp_path: Path) -> None:
    evil = "a\x1b[2J\x1b]0;owned\x07\r\nb\u202egpj.exe\x9b1m\u200b"
    metadata = {"vitrine:picture": evil, "vitrine:command": f"vitrine explain '{evil}'", f"k\x1b{evil[:9]}": "v"}
    text = inspect_figure(write(tmp_path / "a.svg", metadata)).text()
    assert all(c.isprintable() or c == "\n" for c in text)
    assert r"\x1b[2J\x1b]0;owned\x07\r\nb\u202egpj.exe\x9b1m\u200b" in text


@pytest.mark.parametrize(
    ("command", "quoted_command"),
    [
        ("vitrine explain a b; rm -rf ~", "vitrine explain a 'b;' rm -rf '~'"),
        ("vitrine explain $(rm -rf x) `y`", "vitrine explain '$(rm' -rf 'x)' '`y`'"),
        ("vitrine explain a\nrm -rf x", "vitrine explain a rm -rf x"),
        ("vitrine explain 'two words.jpg'", "vitrine explain 'two words.jpg'"),
    ],
)
def test_a_command_holds_no_second_one(command: str, quoted_command: str, tmp_path: Path) -> None:
    text = inspect_figure(write(tmp_path / "a.png", {"vitrine:command": command})).text()
    assert text.endswith(f"\n\nTo draw it again:\n  {quoted_command}")


@pytest.mark.parametrize("command", ["rm -rf ~", "/tmp/vitrine explain", "vitrine 'open quote", "X=1 vitrine explain"])
def test_a_command_that_is_not_vitrines_is_called_so(command: str, tmp_path: Path) -> None:
    text = inspect_figure(write(tmp_path / "a.png", {"vitrine:command": command})).text()
    assert "It names a command that is not one of vitrine's" in text
    assert "To draw it again" not in text


BOMB = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
)
BAD_SVG = {
    "entity bomb": (f"{BOMB}]>", "&j;", "declares"),
    "external entity": ('<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;", "declares"),
    "parameter entity": ('<!DOCTYPE svg [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]>', "{}", "declares"),
    "internal subset": ("<!DOCTYPE svg [<!ATTLIST svg x CDATA #IMPLIED>]>", "{}", "declares"),
    "long description": ("", "x" * 1_500_000, "too long"),
    "deep elements": ("", "<b>" * 200 + "</b>" * 200, "nested"),
    "not JSON": ("", "hello", "Expecting value"),
    "deep JSON": ("", "[" * 100_000, "no SVG figure"),
    "large number": ("", "9" * 10_000, "no SVG figure"),
    "a list": ("", "[1]", "not what vitrine writes"),
    "numbers": ("", '{"a": 1}', "not what vitrine writes"),
    "unclosed": ("", "<b>", "no SVG figure"),
}


@pytest.mark.parametrize("kind", BAD_SVG)
def test_a_hostile_svg_is_refused(kind: str, tmp_path: Path) -> None:
    doctype, description, reason = BAD_SVG[kind]
    with pytest.raises(DataError, match=reason) as error:
        read_provenance(svg(tmp_path / "a.svg", description, doctype))
    assert str(error.value).count("\n") <= 1
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_the_public_document_type_that_matplotlib_writes_is_fine(tmp_path: Path) -> None:
    path = write(tmp_path / "a.svg", {"model": "m"})
    assert b"<!DOCTYPE svg PUBLIC" in path.read_bytes()
    assert read_provenance(path)["model"] == "m"


def test_what_follows_the_metadata_is_not_read(tmp_path: Path) -> None:
    path = svg(tmp_path / "a.svg", after="<metadata><broken" + "x" * 200_000)
    assert read_provenance(path) == {"Software": "vitrine 0.1.0", "a": "b"}


def test_metadata_are_looked_for_in_the_beginning_only(tmp_path: Path) -> None:
    path = svg(tmp_path / "a.svg")
    assert read_provenance(path)["a"] == "b"
    path.write_text(path.read_text().replace("<metadata>", "<!--" + "x" * 5_000_000 + "--><metadata>"))
    with pytest.raises(DataError, match="not a figure of vitrine"):
        read_provenance(path)


def text_chunk(key: str, value: str) -> tuple[bytes, bytes]:
    return b"tEXt", f"{key}\0{value}".encode("latin-1")


OURS = text_chunk("Software", "vitrine 0.1.0")
BAD_PNG = {
    "compressed bomb": [OURS, (b"zTXt", b"a\0\0" + zlib.compress(b"x" * 50_000_000))],
    "compressed international bomb": [OURS, (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 50_000_000))],
    "much text": [OURS, text_chunk("a", "x" * 1_100_000)],
    "many texts": [OURS, *(text_chunk(f"key {i}", "x" * 1_000) for i in range(1_100))],
    "unknown compression": [OURS, (b"zTXt", b"a\0\7xxx")],
}


@pytest.mark.parametrize("kind", BAD_PNG)
def test_a_hostile_png_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_provenance(png(tmp_path / "a.png", *BAD_PNG[kind]))
    assert str(error.value).count("\n") <= 1


def test_a_gigantic_picture_is_not_decoded(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", OURS)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged PNG"):
        read_provenance(path)


def test_a_cut_or_scrambled_figure_is_an_error_and_never_a_traceback(tmp_path: Path) -> None:
    for ending in ("png", "svg"):
        whole = write(tmp_path / f"a.{ending}", WHOLE.to_metadata()).read_bytes()
        broken_path = tmp_path / f"b.{ending}"
        for cut in range(0, min(len(whole), 3000), 97):
            for content in (whole[:cut], whole[:cut] + b"\xff\0\xfe" + whole[cut + 3 :]):
                broken_path.write_bytes(content)
                try:
                    read_provenance(broken_path)
                except DataError as error:
                    assert "\n" not in str(error).rstrip().replace("\nExpected", "")


# --- other files


def test_a_picture_that_is_no_figure_of_vitrines_is_named(tmp_path: Path) -> None:
    photo = tmp_path / "cat.png"
    Image.new("RGB", (3, 3)).save(photo)
    with pytest.raises(DataError, match="not a figure of vitrine, or its metadata were lost"):
        read_provenance(photo)
    info = PngInfo()
    info.add_text("Software", "Other 3.1\x1b[2J")
    Image.new("RGB", (3, 3)).save(photo, pnginfo=info)
    with pytest.raises(DataError, match=r"it says 'Other 3\.1") as error:
        read_provenance(photo)
    assert "\x1b" not in str(error.value)


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 3)).save(file, "JPEG")
    for name, content in {
        "a.png": file.getvalue(),
        "b.svg": b"",
        "c.csv": b"filename,label\n",
        "d": b"\0" * 99,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="neither a PNG nor an SVG"):
            read_provenance(tmp_path / name)
    (tmp_path / "page.html").write_text("<html><body><p>hello</body></html>")
    with pytest.raises(DataError):
        read_provenance(tmp_path / "page.html")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_provenance(tmp_path / "absent.png")
    with pytest.raises(DataError, match="is not a file"):
        read_provenance(tmp_path)


def test_a_file_of_absurd_length_is_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", OURS)
    with path.open("r+b") as file:
        file.truncate(300_000_000)  # sparse: takes no room on the disk
    with pytest.raises(DataError, match="300,000,000 bytes"):
        read_provenance(path)
