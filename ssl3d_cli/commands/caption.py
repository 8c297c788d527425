"""``ssl3d caption``: what the images of a dataset show, by models, by files, or as it came with the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssl3d.cli import console, options, stage_command
from ssl3d.data.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssl3d.data.captions.check import CaptionReport
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.product import Product
    from ssl3d.pipeline.stage_run import StageRun
    from ssl3d.pipeline.stages.caption import CaptionStage

EPILOG = """\
[bold]Example[/]

  ssl3d caption                             generated data brings its own
  ssl3d caption --from my_captions --check  only look
  ssl3d caption --from my_captions
  ssl3d caption --producer transformers --device cuda
  ssl3d caption --preview first             and a picture of a scan's image
  ssl3d caption --export DIR                image.jsonl, entity.jsonl

Then: ssl3d embed

[bold]--from[/] takes a folder with image.jsonl, entity.jsonl or both, or one of
them (docs/captions.md has the format); a .csv with the columns image_id and
text; a COCO .json; or a folder with IMAGE_ID/mask.json and mask.png as
GroundedSAM's demo makes them. Everything is checked before any of it is taken.

[bold]--producer transformers[/] needs pip install 'ssl3d\\[vlm]' and asks KOSMOS-2,
Grounding DINO and SAM, several gigabytes that are taken from the cache of the
Hugging Face hub or from local folders; only --allow-download downloads. Killed,
the same command goes on with the next image. Other models, prompts, thresholds:

  --set captioner=DIR --set detector=ID@REVISION --set segmenter=none
  --set tiles=3 --set vocabulary=classes --set box_threshold=0.25

Only images of train scans are captioned: nothing else needs captions."""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def caption(
    producer: Annotated[
        Literal["transformers", "import", "generated"] | None,
        typer.Option(
            "--producer",
            metavar="NAME",
            help="transformers, import or generated; else --from, or what came with the data.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="Captions that you have.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check captions; nothing is made.")] = False,
    words: Annotated[
        Path | None,
        typer.Option("--words", metavar="FILE", help="Phrases to look for, one a line.", show_default=False),
    ] = None,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Models may be downloaded from the Hugging Face hub.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="DIR", help="Also write the files to hand on.", show_default=False),
    ] = None,
    set_: stage_command.Set = None,
    preview: stage_command.Preview = None,
    out: stage_command.PreviewOut = None,
    dataset: options.Dataset = None,
    workspace: options.Workspace = options.DEFAULT_WORKSPACE,
    device: options.Device = "auto",
    jobs: options.Jobs = 0,
    debug: options.Debug = False,
) -> None:
    """Caption the images of the dataset prepared last: whole images, and the things in them."""
    from ssl3d.pipeline.captioning.choose import caption_stage
    from ssl3d.pipeline.captioning.summary import export_captions

    given = [f"caption.{item}" if not item.startswith("caption.") else item for item in set_ or ()]
    given += _phrases(words)
    if check:
        _check(workspace, dataset, source, given)
        return

    def make(prepared: PreparedDataset) -> CaptionStage:
        more = [f"caption.allow_download={allow_download}"]
        more += [f"caption.device={options.resolve_device(device)}"] if producer == "transformers" else []
        return caption_stage(prepared, producer, source, [*given, *more], console.ConsoleProgress())

    done = stage_command.run(
        workspace, dataset, make, jobs=jobs, report=report, draw=draw, preview=preview, out=out, then=("embed",)
    )
    if export is not None:
        for path in export_captions(done.product, export):
            console.say(f"wrote {path}")


def _phrases(words: Path | None) -> list[str]:
    """The lines of a file as parameters."""
    import json

    if words is None:
        return []
    try:
        lines = [" ".join(line.split()) for line in words.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The phrases cannot be read: {error}", where={"file": words}) from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError("There is no phrase in this file.", where={"file": words}, hint="Write one phrase a line.")
    return ["caption.vocabulary=file", f"caption.words={json.dumps(found)}"]


def _check(workspace: Path, dataset: str | None, source: Path | None, given: list[str]) -> None:
    """``--check``: draws what was found; an error when something is wrong."""
    from ssl3d.pipeline.captioning.choose import WAYS, check_source, opened_source, shipped_captions
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.stages.caption_params import CaptionParams
    from ssl3d.pipeline.stages.per_scan import stage_params

    prepared = PreparedDataset(options.open_workspace(workspace, create=False).dataset(dataset))
    place = source or shipped_captions(prepared)
    if place is None:
        raise UsageError("There are no captions to check.", hint=WAYS)
    which = stage_params("caption", CaptionParams, prepared.spec, given).images
    report = check_source(prepared, opened_source(prepared, place), which, console.ConsoleProgress())
    for found in report.problems:
        console.problem(found)
    draw_report(report)
    if report.errors:
        raise DataError(f"{len(report.errors)} problems have to be mended first", where={"captions": place})
    console.done("captions are sound", {"captions": place}, then=[options.command_line("caption", *_from(source))])


def _from(source: Path | None) -> tuple[str, ...]:
    return () if source is None else ("--from", str(source))


def draw_report(report: CaptionReport) -> None:
    paper = console.out()
    images = f"{report.images:,} images of the dataset, {report.captioned:,} with captions"
    paper.print(f"{images}, {report.with_entities:,} with entities")
    paper.print(
        f"{report.captions:,} captions, {report.entities:,} entities (pixels by {report.membership}), "
        f"{report.texts:,} different texts"
    )
    share = console.percent_text(report.covered / report.expected) if report.expected else "none"
    paper.print(f"{report.covered:,} of {report.expected:,} images that training sees are covered ({share})")


def report(dataset: PreparedDataset, run: StageRun) -> None:
    """How many of what, by subset, and what is named most."""
    from ssl3d.pipeline.captioning.summary import count_captions

    subsets = stage_command.subsets_of(dataset)
    rows = []
    for subset in dict.fromkeys(subsets[unit] for unit in sorted(run.product.done)):
        counts = count_captions(run.product, [unit for unit in run.product.done if subsets[unit] == subset])
        share = counts.captioned / counts.images if counts.images else 0.0
        numbers = (counts.images, counts.captioned, counts.with_entities, counts.captions, counts.entities)
        rows.append((subset, *(f"{number:,}" for number in numbers), console.percent_text(share)))
    names = ("images", "with captions", "with entities", "captions", "entities", "captioned")
    columns: list[console.Column] = ["subset", *((name, "right") for name in names)]
    console.out().print(console.table(columns, rows))
    every = count_captions(run.product)
    most = ", ".join(f"{phrase} ({count:,})" for phrase, count in every.phrases.most_common(12))
    more = f" and {len(every.phrases) - 12:,} more phrases" if len(every.phrases) > 12 else ""
    if most:
        console.out().print(f"entities (pixels by {every.membership}): {most}{more}", markup=False)
    if every.images and not every.captioned and not every.with_entities:
        console.warn("not one of the images has a caption or an entity")


def draw(dataset: PreparedDataset, product: Product, scan: ScanRef, path: Path) -> Path:
    """The image of the scan with most entities, with their pixels and all that is said."""
    from ssl3d.pipeline.captioning.picture import scan_captions_picture

    return scan_captions_picture(dataset, product, scan, path)
