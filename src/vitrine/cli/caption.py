"""The verb caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from vitrine.cli import show
from vitrine.cli.options import (
    AddressOption,
    CsvSafeOption,
    DeviceOption,
    EngineOption,
    FigureFormatOption,
    JsonOption,
    PartSizeOption,
    ReplaceOption,
    ResumeOption,
    VocabOption,
    WorkersOption,
    explicit_options,
    refuse_explicit,
)
from vitrine.results import count_of

LayerOption = Annotated[
    str,
    typer.Option(
        metavar="N|M-N|mean|FILE",
        help="Of the decoder, from 0 or from the end with -1; 8-20 is the mean of those layers, mean that of "
        "all; a layers.json that evaluate --grounding wrote has the one that points best, with its --reading.",
    ),
]
ReadingOption = Annotated[
    str | None,
    typer.Option(
        metavar="attention|relative|gradient|occlusion",
        help="How maps are read: attention; divided by that of a neutral prompt; times the positive gradient of the "
        "word's logit; or the fall of its log-probability with each cell covered, which runs the model once a cell. "
        "relative and gradient are of vision-language models. Default: attention, or what --layer's file says.",
    ),
]
RelativeOption = Annotated[
    bool,
    typer.Option(
        "--relative",
        help="The same as --reading relative.",
    ),
]
SinksOption = Annotated[
    bool,
    typer.Option(
        "--mask-sinks",
        help="Of a vision-language model: leave places that draw attention whatever the word is out of the maps.",
    ),
]
PromptMapsOption = Annotated[
    bool,
    typer.Option(
        "--prompt-maps",
        help="Of a vision-language model: maps of the prompt's words too, apart from the answer's: what each one's own "
        "position looked at as the prompt was read.",
    ),
]
HeadsOption = Annotated[str, typer.Option(help="mean, max, or a head's number from 0; -1 is the last.")]
QueryLayersOption = Annotated[
    str,
    typer.Option(
        "--query-layers",
        metavar="N|M-N|mean",
        help="Of a model with query tokens (BLIP-2, InstructBLIP, Kosmos-2): the layers in which they read the "
        "picture that are looked at, as --layer.",
    ),
]
JoinOption = Annotated[str, typer.Option(metavar="mean|first|max", help="How the maps of a word's pieces become one.")]


def caption(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The folder of a run that trained a captioner; catr/v1, catr/v2 or catr/v3, or a file of its weights "
            "with --arch catr; a BLIP, GIT, vision-encoder-decoder or vision-language model of transformers: its "
            "folder or hf-hub:owner/name.",
        ),
    ],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of pictures, or one picture.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Where the figures and captions.csv are written.")
    ],
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What a vision-language model is asked of every picture; default: for a caption, in its own words. Of "
            "a BLIP or GIT: words that its captions go on from.",
        ),
    ] = None,
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
        typer.Option(
            min=1,
            help="Cut a caption after so many word pieces; default: as many as the captioner can, and 256 of a "
            "vision-language model.",
        ),
    ] = None,
    layer: LayerOption = "-1",
    reading: ReadingOption = None,
    relative: RelativeOption = False,
    mask_sinks: SinksOption = False,
    prompt_maps: PromptMapsOption = False,
    heads: HeadsOption = "mean",
    query_layers: QueryLayersOption = "mean",
    join: JoinOption = "mean",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures at most, drawn with --seed; default: all."),
    ] = None,
    kind: FigureFormatOption = "png",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16|4bit",
            help="bf16 computes the image side in bf16, words in fp32 (captioners of transformers: products of both in "
            "bf16; vision-language models: all of it in bf16); words may change. 4bit has linear layers of "
            "vision-language models in 4 bits (extra bitsandbytes).",
        ),
    ] = "fp32",
    device: DeviceOption = None,
    replace: ReplaceOption = False,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    part_size: PartSizeOption = None,
    resume: ResumeOption = False,
    csv_safe: CsvSafeOption = False,  # noqa: ARG001  its callback acts
    as_json: JsonOption = False,
) -> None:
    """Caption every picture, with one attention map for every word, into a figure of the same name."""
    from vitrine.api.caption import caption as run
    from vitrine.caption.run import CaptionResult

    _refuse_ignored(explicit_options(context), sample, beams, limit)
    with show.how_to_continue("--resume", lambda: engine == "ray"):
        result = run(
            model,
            images,
            out,
            arch=arch,
            vocab=vocab,
            beams=beams,
            length_normalisation=length_normalisation,
            no_repeat=no_repeat,
            sample=sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            max_pieces=max_pieces,
            layer=layer,
            reading=reading,
            relative=relative,
            mask_sinks=mask_sinks,
            prompt_maps=prompt_maps,
            prompt=prompt,
            heads=int(heads) if heads.removeprefix("-").isdecimal() else heads,
            query_layers=query_layers,
            join=join,
            limit=limit,
            format=kind,
            replace=replace,
            batch_size=batch_size,
            precision=precision,
            device=device,
            engine=engine,
            ray_address=ray_address,
            workers=workers,
            part_size=part_size,
            resume=resume,
        )
    if as_json:
        show.json(result)
    elif isinstance(result, CaptionResult):
        for each in result.captions:
            show.answer(f"{each.name}: {each.caption}")


def _refuse_ignored(explicit: Mapping[str, str], sample: bool, beams: int, limit: int | None) -> None:
    """Refuse options of a way of decoding that is not the one asked for.

    Raises:
        UsageError: it names the option.
    """
    if not sample:
        refuse_explicit(explicit, ("temperature", "top_k", "top_p"), "with --sample")
    if beams == 1:
        refuse_explicit(explicit, ("length_normalisation",), "with --beams of 2 or more")
    if not sample and limit is None:
        refuse_explicit(explicit, ("seed",), "with --sample or --limit")


def ask(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A vision-language model of transformers: its folder or hf-hub:owner/name."
        ),
    ],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="One picture.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What it is asked, in plain words.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The answer's figure to write: .png or .svg.")
    ] = Path("answer.png"),
    beams: Annotated[int, typer.Option(min=1, help="Of beam search; 1 is greedy.")] = 1,
    max_pieces: Annotated[
        int | None, typer.Option(min=1, help="Cut the answer after so many word pieces; default: 256.")
    ] = None,
    layer: LayerOption = "-1",
    reading: ReadingOption = None,
    relative: RelativeOption = False,
    mask_sinks: SinksOption = False,
    prompt_maps: PromptMapsOption = False,
    heads: HeadsOption = "mean",
    query_layers: QueryLayersOption = "mean",
    join: JoinOption = "mean",
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16|4bit",
            help="bf16 computes all of it in bf16; 4bit has linear layers in 4 bits, by bitsandbytes (extra "
            "bitsandbytes), and the rest in bf16; words may change.",
        ),
    ] = "fp32",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a vision-language model about one picture; its answer's figure has an attention map for every word."""
    from vitrine.api.caption import ask as run

    answer = run(
        model,
        image,
        question,
        out,
        beams=beams,
        max_pieces=max_pieces,
        layer=layer,
        reading=reading,
        relative=relative,
        mask_sinks=mask_sinks,
        prompt_maps=prompt_maps,
        heads=int(heads) if heads.removeprefix("-").isdecimal() else heads,
        query_layers=query_layers,
        join=join,
        precision=precision,
        device=device,
    )
    if as_json:
        show.json(answer)
        return
    show.answer(answer.text)
    show.say(f"A map for each of its {count_of(len(answer.words), 'word')}: {out}.")
    for note in answer.notes[1:]:  # the first is the question
        show.say(note)
