"""``ssl3d import-checkpoint``: weights that others have published, as a file that ``ssl3d train --init-from`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError

if TYPE_CHECKING:
    from ssl3d.models.backbones.public_weights import PublicWeights

EPILOG = """\
[bold]Example[/]

  ssl3d import-checkpoint weights.pth
  ssl3d import-checkpoint weights.pth --features color --out scannet.pt
  ssl3d import-checkpoint slidr.pt --part model_points --drop-head

Reads MinkUNet-14, 18 and 34 of MinkowskiEngine's example and its copies (Res16UNet of SpatioTemporalSegmentation, \
PointContrast, Mask3D, SLidR, ...), wherever they lie in the file; never runs code that the file holds. Every tensor \
that has no place is named."""

app = typer.Typer(add_completion=False)


@app.command(name="import-checkpoint", epilog=EPILOG)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What torch.save wrote.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            metavar="NAME",
            autocompletion=options.complete_backbone,
            help="What it has to be.",
            show_default="what it is",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write.", show_default="./NAME.ssl3d.pt")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="A,B",
            help="What its input channels are, such as color,xyz.",
            show_default="what is usual for their number",
        ),
    ] = None,
    offsets: Annotated[
        Literal["auto", "cube", "hybrid"],
        typer.Option(
            "--offsets",
            help="Order of the offsets of kernels in blocks: cube is MinkowskiEngine's usual one, hybrid that of "
            "SpatioTemporalSegmentation; auto judges by the weights.",
        ),
    ] = "auto",
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="TEXT", help="Which of several networks in the file.", show_default="the one"),
    ] = None,
    drop_head: Annotated[bool, typer.Option("--drop-head", help="Leave its classifier out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is written.")] = False,
    debug: options.Debug = False,
) -> None:
    """Convert a published MinkUNet, to begin training from it."""
    target = out or Path(f"{file.stem}.ssl3d.pt")
    if target.exists() and (not overwrite or (file.exists() and target.samefile(file))):
        raise UsageError(
            "the file to write exists already", where={"file": target}, hint="type another --out FILE, or --overwrite"
        )
    from ssl3d.pipeline.training.public_checkpoint import read_public, settings, write_imported

    weights, place = read_public(
        file,
        backbone=backbone,
        offsets=None if offsets == "auto" else offsets,
        features=[name.strip() for name in features.split(",")] if features is not None else None,
        part=part,
        head=not drop_head,
    )
    write_imported(target, weights, file.name)
    for note in weights.notes:
        console.say(f"note: {note}")
    for line in weights.left_out:
        console.warn(f"left out: {line}")
    command = ["train", "supervised", *settings(weights.backbone, weights.params), "--init-from", target]
    console.done(f"imported {file.name}", _facts(weights, place, target), then=[options.command_line(*command)])


def _facts(weights: PublicWeights, place: str, target: Path) -> dict[str, object]:
    numbers = sum(value.numel() for value in weights.state.values())
    head = "none" if weights.num_classes is None else f"{weights.num_classes} classes"
    return {
        "found": f"{weights.backbone}, in {place}",
        "input": f"{weights.in_channels} channels",
        "classifier": head,
        "tensors": f"{len(weights.state)} matched ({console.count_text(numbers)} numbers), "
        f"{len(weights.left_out)} left out",
        "wrote": target,
    }
