"""Who captions a dataset: models, a user's own files, or the captions that came with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.captioning.images import dataset_images
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.stages.caption import CaptionStage, captioned_units
from ssl3d.pipeline.stages.caption_params import NONE, CaptionParams
from ssl3d.pipeline.stages.per_scan import stage_params

if TYPE_CHECKING:
    from ssl3d.data.captions.check import CaptionReport
    from ssl3d.data.captions.source import CaptionSource
    from ssl3d.pipeline.dataset import PreparedDataset

SHIPPED = "captions"
"""Folder in the root of a dataset where captions come with it."""
WAYS = (
    "ssl3d caption --producer transformers (models in your Hugging Face cache or local folders), "
    "ssl3d caption --from PATH (captions that you have), or generated data, which brings its own"
)


def caption_stage(
    dataset: PreparedDataset,
    producer: str | None = None,
    source: Path | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> CaptionStage:
    """The stage that was asked for; imported captions are checked first, unless they have been.

    Args:
        producer: None: import where there is a ``source``, generated where captions come with the dataset.
        overrides: ``caption.key=value``.

    Raises:
        UsageError: nobody who could caption, or the dataset has no images.
        DataError: captions are damaged, or of another dataset.
    """
    if source is not None and producer not in (None, "import"):
        raise UsageError(f"--from gives captions, so there is nothing to do for --producer {producer}.")
    if producer == "import" and source is None:
        raise UsageError("--producer import needs captions.", hint="Name them: ssl3d caption --from PATH")
    shipped = shipped_captions(dataset)
    looked_for = Path(dataset.product.manifest.identity["root"]) / SHIPPED
    if producer is None:
        producer = "import" if source is not None else "generated" if shipped is not None else None
    if producer is None:
        raise UsageError(
            "no captions come with this dataset, so it has to be said who captions",
            where={"dataset": dataset.name, "looked for": looked_for},
            hint=WAYS,
        )
    if producer == "generated" and shipped is None:
        raise UsageError("no captions come with this dataset", where={"looked for": looked_for}, hint=WAYS)
    params = stage_params("caption", CaptionParams, dataset.spec, [*overrides, f"caption.producer={producer}"])
    if params.vocabulary == "file" and not params.words:
        raise UsageError("vocabulary=file needs words.", hint="Type: ssl3d caption ... --words FILE, a phrase a line")
    captioned_units(dataset, params.images)
    if producer == "transformers":
        _require_models(params)
        return CaptionStage(params, dataset)
    place = source if source is not None else shipped
    assert place is not None
    stage = CaptionStage(params, dataset, opened_source(dataset, place))
    if not _known(stage):
        report = check_source(dataset, stage.source, params.images, progress)
        if report.errors:
            command = shlex.join(["ssl3d", "caption", *(["--from", str(place)] if source else []), "--check"])
            raise report.errors[0].as_error(len(report.errors) - 1, command)
        for problem in report.problems:
            if progress is not None:
                progress.say(f"warning: {problem.what}")
    return stage


def _require_models(params: CaptionParams) -> None:
    from ssl3d.pipeline.captioning.load import require_model

    detector = params.detector if params.detector != NONE else None
    if detector is None and params.captioner == NONE:
        raise UsageError("captioner=none and detector=none leave nothing to do.")
    if params.captioner == NONE and params.vocabulary == "kosmos":
        raise UsageError("vocabulary=kosmos needs the captioner.", hint="Add --set vocabulary=classes")
    for name in (params.captioner, detector, params.segmenter if detector else None):
        if name is not None and name != NONE:
            require_model(name, params.allow_download)


def shipped_captions(dataset: PreparedDataset) -> Path | None:
    """The folder with captions that came with the dataset."""
    from ssl3d.data.captions.source import ENTITY_FILE, IMAGE_FILE

    folder = Path(dataset.product.manifest.identity["root"]) / SHIPPED
    return folder if any((folder / name).is_file() for name in (IMAGE_FILE, ENTITY_FILE)) else None


def opened_source(dataset: PreparedDataset, path: Path) -> CaptionSource:
    """Captions at ``path``, with the images of the dataset that they may speak of."""
    from ssl3d.data.captions.source import open_source

    images = (image for images in dataset_images(dataset).values() for image in images)
    return open_source(path, {image.image_id: (image.width, image.height) for image in images})


def check_source(
    dataset: PreparedDataset, source: CaptionSource | None, which: str, progress: Progress | None = None
) -> CaptionReport:
    """Reads all of a source, and compares it with the dataset."""
    from ssl3d.data.captions.check import check_captions

    assert source is not None
    expected = dataset_images(dataset, captioned_units(dataset, which))
    ids = {image.image_id for images in expected.values() for image in images}
    with (progress or Silent()).task("checking captions", total=None, unit="record") as task:
        return check_captions(source, ids, dataset.spec.name, task.advance)


def _known(stage: CaptionStage) -> bool:
    """Whether these very captions were taken for these very scans before, and so had been checked."""
    content = stage.dataset.product.content
    return any(
        product.complete
        and product.manifest.identity.get("source") == stage.digest
        and product.manifest.needs["prepare"]["content"] == content
        for product in stage.dataset.handle.products("caption")
    )
