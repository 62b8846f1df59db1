"""The verb caption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from vitrine.cli import show
from vitrine.cli.options import (
    AddressOption,
    CsvSafeOption,
    EngineOption,
    FigureFormatOption,
    JsonOption,
    PartSizeOption,
    ResumeOption,
    VocabOption,
    WorkersOption,
    bulk_settings,
    require_local,
)
from vitrine.errors import UsageError


def caption(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The folder of a run that trained a captioner; catr/v1, catr/v2 or catr/v3, or a file of its weights "
            "with --arch catr; a BLIP, GIT or vision-encoder-decoder model of transformers: its folder or "
            "hf-hub:owner/name.",
        ),
    ],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of pictures, or one picture.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Where the figures and captions.csv are written.")
    ],
    arch: Annotated[
        str | None,
        typer.Option("--arch", metavar="NAME", help="catr, where MODEL is a weights file."),
    ] = None,
    vocab: VocabOption = None,
    beams: Annotated[int, typer.Option(min=1, help="Of beam search; 1 is greedy.")] = 1,
    length_normalisation: Annotated[
        float, typer.Option(min=0, help="Of beam search: 0 prefers short captions, 1 compares means.")
    ] = 1.0,
    no_repeat: Annotated[int, typer.Option(min=0, help="No run of so many word pieces comes twice; 0 allows all.")] = 0,
    sample: Annotated[bool, typer.Option("--sample", help="Draw words instead of taking the likeliest.")] = False,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of --sample.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Of --sample: only the K likeliest; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Of --sample: only the likeliest that make up P.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of --sample and --limit.")] = 0,
    max_pieces: Annotated[
        int | None,
        typer.Option(min=1, help="Cut a caption after so many word pieces; default: as many as the captioner can."),
    ] = None,
    layer: Annotated[int, typer.Option(help="Of the decoder, from 0 or from the end with -1.")] = -1,
    heads: Annotated[str, typer.Option(help="mean, max, or a head's number from 0; -1 is the last.")] = "mean",
    join: Annotated[
        str, typer.Option(metavar="mean|first|max", help="How the maps of a word's pieces become one.")
    ] = "mean",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures at most, drawn with --seed; default: all."),
    ] = None,
    kind: FigureFormatOption = "png",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16",
            help="bf16 computes the image side in bf16, words in fp32 (captioners of transformers: products of both in "
            "bf16); words may change.",
        ),
    ] = "fp32",
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    part_size: PartSizeOption = None,
    resume: ResumeOption = False,
    csv_safe: CsvSafeOption = False,  # noqa: ARG001  its callback acts
    as_json: JsonOption = False,
) -> None:
    """Caption every picture, with one attention map for every word, into a figure of the same name."""
    from vitrine.caption.run import CaptionSettings, caption_pictures

    _require_choices(join, kind, precision, heads)
    if sample and beams > 1:
        raise UsageError("--sample and --beams do not go together: give one of them.")
    settings = CaptionSettings(
        beams=beams,
        length_normalisation=length_normalisation,
        no_repeat_ngram=no_repeat,
        sampled=sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        max_pieces=max_pieces,
        layer=layer,
        heads=int(heads) if heads.removeprefix("-").isdecimal() else heads,
        join=join,  # type: ignore[arg-type]
        precision=precision,
        kind=kind,
    )
    bulk = bulk_settings(engine, ray_address, workers, part_size, resume)
    require_local(resume, bulk)
    if bulk is not None:
        from vitrine.bulk.jobs import CaptionJob
        from vitrine.bulk.run import caption_in_bulk

        job = CaptionJob(model, arch, vocab, batch_size, images, True, out, settings)
        with show.reading_progress("Captioning") as progress:
            outcome = caption_in_bulk(job, bulk, limit, progress)
        show.bulk_result(outcome, "captions and figures", as_json)
        return
    with show.reading_progress("Captioning") as progress, show.reading_progress("Downloading") as download:
        result = caption_pictures(
            model,
            images,
            out,
            settings,
            architecture=arch,
            vocabulary=vocab,
            limit=limit,
            batch_size=batch_size,
            progress=progress,
            download=download,
        )
    show.notes(result.notes)
    if as_json:
        show.json(result)
    else:
        for each in result.captions:
            show.answer(f"{each.name}: {each.caption}")
        show.say(f"{len(result.captions)} figures and captions.csv in {result.out}.")
    show.unreadable(result.unreadable)
    show.unwritten(result.unwritten)


def _require_choices(join: str, kind: str, precision: str, heads: str) -> None:
    """Refuse a value that its option does not have.

    Raises:
        UsageError: it names the option, the value, and what is possible.
    """
    from vitrine.caption.word_maps import Join

    for option, value, choices in (
        ("--join", join, get_args(Join)),
        ("--format", kind, ("png", "svg")),
        ("--precision", precision, ("fp32", "bf16")),
    ):
        if value not in choices:
            raise UsageError(f"{option} {value} cannot be used: expected {', '.join(choices)}.")
    if not heads.removeprefix("-").isdecimal() and heads not in ("mean", "max"):
        raise UsageError(f"--heads {heads} cannot be used: expected mean, max or a number.")
