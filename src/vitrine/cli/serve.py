"""The verb that serves the explorer."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrine.api.progress import say_notes
from vitrine.cli import show
from vitrine.cli.options import AnyModelPrecisionOption, ArchOption, DeviceOption, VocabOption
from vitrine.errors import UsageError


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Run folders, a folder that holds runs, vitrine/scenes-tiny, timm names, hf-hub:owner/name, "
            "captioners, or a weights file with --arch.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="The address to bind. Anything but this machine's own is open to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 lets the system choose one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="VITRINE_TOKEN",
            help="Let nobody in without it; the printed address carries it. Others on this machine can read a command "
            "line: the environment variable VITRINE_TOKEN is not shown to them.",
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also serve the report of the runs among the models, at /report.")
    ] = False,
    precision: AnyModelPrecisionOption = "auto",
    device: DeviceOption = None,
    vocab: VocabOption = None,
    arch: ArchOption = None,
) -> None:
    """Open the explorer: look inside models in the browser. Prints its address, and runs until Ctrl-C."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed. The explorer needs it: pip install 'vitrine[serve]'"
        ) from None
    from vitrine.serve.server import open_app_state, run_server
    from vitrine.serve.settings import ServeSettings

    if token is not None and not token.strip():
        raise UsageError("--token is empty: expected a text that nobody guesses.")
    settings = ServeSettings(host=host, port=port, token=token)
    state = open_app_state(
        models,
        settings,
        architecture=arch,
        vocabulary=vocab,
        precision=precision,
        device=device,
        report=report,
        on_open=lambda name: show.say(f"Opening {name}"),
    )
    for model in state.models.values():
        say_notes((*model.notes, *model.gallery.notes))
    if not settings.is_private and token is None:
        show.say(
            f"Warning: {host} can be reached from other machines, and anyone there can use this server. "
            "Set a --token, or leave --host out."
        )
    run_server(state, on_ready=lambda address: show.answer(address))
