"""The functions caption and ask."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, get_args

from vitrine.api.options import (
    PathLike,
    as_path,
    bulk_settings,
    csv_cells,
    optional_path,
    path_for_ray,
    require_counts,
    require_local,
    require_out,
    require_reference,
    text_for_ray,
)
from vitrine.api.progress import reading_progress, say_bulk_result, say_notes, say_unreadable, say_unwritten
from vitrine.errors import UsageError
from vitrine.messages import quiet_messages, say
from vitrine.results import count_of

if TYPE_CHECKING:
    from vitrine.api.load import ModelLike
    from vitrine.bulk.run import BulkResult, BulkSettings
    from vitrine.caption.picture_caption import Caption
    from vitrine.caption.run import CaptionResult, CaptionSettings


def caption(
    model: ModelLike,
    images: Any,
    out: PathLike | None = None,
    *,
    prompt: str | None = None,
    arch: str | None = None,
    vocab: PathLike | None = None,
    beams: int = 1,
    length_normalisation: float = 1.0,
    no_repeat: int = 0,
    sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    max_pieces: int | None = None,
    layer: int | str = -1,
    reading: str | None = None,
    relative: bool = False,
    mask_sinks: bool = False,
    prompt_maps: bool = False,
    heads: str | int = "mean",
    query_layers: int | str = "mean",
    join: str = "mean",
    limit: int | None = None,
    format: str = "png",  # noqa: A002  the command line's word
    replace: bool = False,
    batch_size: int = 8,
    precision: str = "fp32",
    device: str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    workers: int | None = None,
    part_size: int | None = None,
    resume: bool = False,
    csv_safe: bool = False,
    quiet: bool = False,
) -> CaptionResult | BulkResult:
    """Caption pictures, with one attention map for every word, into a folder or in memory.

    Args:
        model: the reference of a captioner (a run, ``catr/v3``, a BLIP, GIT, encoder-decoder or vision-language model
            of transformers), or what :func:`vitrine.load` opened.
        images: pictures, as :func:`vitrine.predict` takes them. A generator is read as it comes: with ``out``, of its
            pictures two batches are held at most.
        out: the folder for figures and captions.csv; None keeps captions in memory, as the result's ``captions``, which
            draw themselves, and so keep their photographs.
        prompt: what a vision-language model is asked of every picture; None asks for a caption, in its own words. Of a
            BLIP or GIT: words that its captions go on from.
        arch: catr, where ``model`` is a weights file.
        vocab: of the published captioner, its vocab.txt.
        beams: of beam search; 1 is greedy.
        length_normalisation: of beam search: 0 prefers short captions, 1 compares means.
        no_repeat: no run of so many word pieces comes twice; 0 allows all.
        sample: draw words instead of taking the likeliest.
        temperature: of sampling.
        top_k: of sampling: only the K likeliest; 0 is all.
        top_p: of sampling: only the likeliest that make up P.
        seed: of sampling and of the choice of pictures.
        max_pieces: cut a caption after so many word pieces; None is as many as the captioner can, and 256 of a
            vision-language model.
        layer: of the decoder, from 0 or from the end with -1; ``"8-20"`` is the mean of those layers, ``"mean"`` that
            of all; the path of a layers.json that ``evaluate(grounding=True)`` wrote has the one that points best.
        reading: how maps are read: attention; relative, divided by that of a neutral prompt on the same picture;
            gradient, times the positive gradient of the word's logit (both of vision-language models); or occlusion,
            the fall of the word's log-probability with each cell covered, which runs the model once a cell. None is
            attention, or what a layers.json says.
        relative: the same as ``reading="relative"``.
        mask_sinks: of a vision-language model: leave places that draw attention whatever the word is out of the maps.
        prompt_maps: of a vision-language model: maps of the prompt's words too, apart from the answer's: what each
            one's own position looked at as the prompt was read.
        heads: mean, max, or a head's number from 0; -1 is the last.
        query_layers: of a model with query tokens, the layers in which they read the picture that are looked at: as
            ``layer``.
        join: how the maps of a word's pieces become one: mean, first or max.
        limit: pictures at most, drawn with ``seed``, or of a generator the first ones; None is all.
        format: png or svg, of the figures.
        replace: remove the figures that another call left in ``out``; without it they are an error.
        batch_size: pictures at a time.
        precision: fp32, or bf16, which computes the image side in bf16; of a vision-language model, 4bit, too: linear
            layers in 4 bits, by bitsandbytes. A model that is open keeps its own.
        device: cpu, cuda, cuda:1 or mps, where a reference is opened; None takes a GPU where there is one. auto spreads
            a vision-language model over all GPUs, and puts the rest into memory and on the disk.
        engine: local, or ray: several processes, on this machine or a cluster, part by part.
        ray_address: of the engine ray: a cluster; None is this machine.
        workers: of the engine ray: processes with a model each.
        part_size: of the engine ray: pictures that are finished, or lost in an interruption, together.
        resume: of the engine ray: continue a job that was interrupted.
        csv_safe: write an apostrophe before cells that a spreadsheet would compute.
        quiet: show no progress and say nothing.

    Raises:
        DataError: no pictures, or none that can be read.
        ModelError, WeightsUnavailableError: the captioner cannot be opened.
        UsageError: options that do not go together.

    Examples:
        >>> result = vitrine.caption("runs/captioner", "cat.jpg", quiet=True)
        >>> len(result.captions)
        1
    """
    from vitrine.models.precision import on_device

    require_choices(join, format, precision, heads)
    if sample and beams > 1:
        raise UsageError("--sample and --beams do not go together: give one of them.")
    require_out(out, format=format != "png", replace=replace, csv_safe=csv_safe)
    bulk = bulk_settings(engine, ray_address, workers, part_size, resume)
    require_local(resume, bulk)
    require_reference(device, model)
    if device is not None and bulk is not None:
        raise UsageError("--device and --engine ray do not go together: each worker takes what it is given.")
    require_counts(batch_size=batch_size, limit=limit, workers=workers, part_size=part_size)
    settings = _settings(
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
        heads=heads,
        query_layers=query_layers,
        join=join,
        precision=precision,
        kind=format,
        prompt=prompt,
        reading=reading,
        relative=relative,
        without_sinks=mask_sinks,
        prompt_maps=prompt_maps,
    )
    with quiet_messages(quiet), csv_cells(csv_safe), on_device(device):
        if bulk is not None:
            job = (text_for_ray(model), arch, optional_path(vocab), batch_size)
            return _caption_in_bulk(job, images, out, settings, bulk, limit, replace)
        result = _caption_here(model, images, out, settings, limit, batch_size, arch, optional_path(vocab), replace)
        say_notes(result.notes)
        if result.out is not None:
            say(f"{count_of(len(result.captions), 'figure')} and captions.csv in {result.out}.")
        say_unreadable(result.unreadable)
        say_unwritten(result.unwritten)
        return result


def ask(
    model: ModelLike,
    image: Any,
    question: str,
    out: PathLike | None = None,
    *,
    beams: int = 1,
    max_pieces: int | None = None,
    layer: int | str = -1,
    reading: str | None = None,
    relative: bool = False,
    mask_sinks: bool = False,
    prompt_maps: bool = False,
    heads: str | int = "mean",
    query_layers: int | str = "mean",
    join: str = "mean",
    precision: str = "fp32",
    device: str | None = None,
    quiet: bool = False,
) -> Caption:
    """Ask a vision-language model about one picture; its answer has an attention map for every word.

    Args:
        model: the folder or ``hf-hub:owner/name`` of a vision-language model of transformers, or what
            :func:`vitrine.load` opened.
        image: one picture, as :func:`vitrine.predict` takes them.
        question: in plain words.
        out: the answer's figure to write, .png or .svg; None writes none.
        beams: of beam search; 1 is greedy.
        max_pieces: cut the answer after so many word pieces; None is 256.
        layer: as of :func:`vitrine.caption`.
        reading: as of :func:`vitrine.caption`.
        relative: the same as ``reading="relative"``.
        mask_sinks: leave places that draw attention whatever the word is out of the maps.
        prompt_maps: of a vision-language model: maps of the prompt's words too, apart from the answer's: what each
            one's own position looked at as the prompt was read.
        heads: mean, max, or a head's number from 0; -1 is the last.
        query_layers: as of :func:`vitrine.caption`.
        join: how the maps of a word's pieces become one: mean, first or max.
        precision: fp32; bf16, which computes all of it in bf16; or 4bit, with linear layers in 4 bits, by bitsandbytes.
            A model that is open keeps its own.
        device: as of :func:`vitrine.caption`.
        quiet: say nothing.

    Raises:
        DataError, PictureError: the picture cannot be used, or does not fit the model's context.
        ModelError, WeightsUnavailableError: the model cannot be opened.
        UsageError: the question is empty, the model takes none, or the figure has another ending.

    Examples:
        >>> answer = vitrine.ask("models/llava", "cat.jpg", "What is in the picture?", max_pieces=4, quiet=True)
        >>> len(answer.words) > 0
        True
    """
    from vitrine.api.captioner import CaptionerModel
    from vitrine.api.load import load
    from vitrine.caption.layer_grounding import map_options

    require_choices(join, "png", precision, heads)
    figure = optional_path(out)
    if figure is not None and figure.suffix not in (".png", ".svg"):
        raise UsageError(f"{figure} cannot be written: a figure ends in .png or .svg.")
    require_reference(device, model)
    with quiet_messages(quiet):
        is_open = not isinstance(model, str | os.PathLike)
        captioner = load(model) if is_open else load(model, precision=precision, device=device)
        if not isinstance(captioner, CaptionerModel):
            raise UsageError(f"{captioner.reference} is a classifier, which answers no questions: use vitrine.predict.")
        say_notes(captioner.notes)
        answer = captioner.ask(
            image,
            question,
            beams=beams,
            max_pieces=max_pieces,
            **map_options(layer, heads, reading, relative),
            without_sinks=mask_sinks,
            query_layers=query_layers,
            prompt_maps=prompt_maps,
            join=join,
        )
        if figure is not None:
            figure.parent.mkdir(parents=True, exist_ok=True)
            answer.save(figure)
        return answer


def _settings(**fields: Any) -> CaptionSettings:
    from vitrine.caption.layer_grounding import map_options
    from vitrine.caption.run import CaptionSettings

    options = map_options(fields["layer"], fields["heads"], fields["reading"], fields.pop("relative"))
    return CaptionSettings(**{**fields, **options})


def _caption_here(
    model: Any,
    images: Any,
    out: PathLike | None,
    settings: CaptionSettings,
    limit: int | None,
    batch_size: int,
    arch: str | None,
    vocab: Any,
    replace_others: bool,
) -> CaptionResult:
    from dataclasses import replace

    from vitrine.api.load import open_once
    from vitrine.caption.model import Captioner
    from vitrine.caption.picture_caption import caption_in_memory
    from vitrine.caption.run import caption_pictures
    from vitrine.classify.model import Classifier
    from vitrine.data.picture_inputs import picture_input

    captioner, pictures = open_once(model), picture_input(images)
    if isinstance(captioner, Classifier):
        raise UsageError(f"{captioner.reference} is a classifier, which has no words: use vitrine.predict or explain.")
    if isinstance(captioner, Captioner):
        settings = replace(settings, precision=captioner.precision)
    with reading_progress("Captioning") as progress, reading_progress("Downloading") as download:
        options: dict[str, Any] = {
            "architecture": arch,
            "vocabulary": vocab,
            "limit": limit,
            "batch_size": batch_size,
            "progress": progress,
            "download": download,
        }
        if out is None:
            return caption_in_memory(captioner, pictures, settings, **options)
        return caption_pictures(captioner, pictures, as_path(out), settings, replace_others=replace_others, **options)


def _caption_in_bulk(
    job: tuple[str, str | None, Any, int],
    images: Any,
    out: PathLike | None,
    settings: CaptionSettings,
    bulk: BulkSettings,
    limit: int | None,
    replace: bool,
) -> BulkResult:
    from vitrine.bulk.jobs import CaptionJob
    from vitrine.bulk.run import caption_in_bulk

    pictures, folder = path_for_ray(images, "images"), path_for_ray(out, "out")
    with reading_progress("Captioning") as progress:
        outcome = caption_in_bulk(CaptionJob(*job, pictures, True, folder, settings), bulk, limit, progress, replace)
    say_bulk_result(outcome, "captions and figures")
    return outcome


def require_choices(join: str, kind: str, precision: str, heads: str | int) -> None:
    """Refuse a value that its option does not have.

    Raises:
        UsageError: it names the option, the value, and what is possible.
    """
    from vitrine.caption.word_maps import Join

    for option, value, choices in (
        ("--join", join, get_args(Join)),
        ("--format", kind, ("png", "svg")),
        ("--precision", precision, ("fp32", "bf16", "4bit")),
    ):
        if value not in choices:
            raise UsageError(f"{option} {value} cannot be used: expected {', '.join(choices)}.")
    if isinstance(heads, str) and not heads.removeprefix("-").isdecimal() and heads not in ("mean", "max"):
        raise UsageError(f"--heads {heads} cannot be used: expected mean, max or a number.")
