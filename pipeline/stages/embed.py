"""``embed``: every text that was said about images as a vector, in the table ``text_emb.npz``.

A stage of its own, so that another encoder computes vectors anew and nothing else.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssl3d.data.errors import UsageError
from ssl3d.models.config import Params
from ssl3d.pipeline.files import digest_value, remove_tree
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.progress import step_inside
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stages.per_scan import stage_params

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl3d.pipeline.dataset import PreparedDataset

UNIT = "text_emb"
PARTIAL = "partial"


class EmbedParams(Params):
    """Parameters of ``embed``."""

    encoder: Literal["clip", "minilm", "hash"] = Field("clip", description="hash needs no weights: tests and demos")
    model: str = Field(
        "", exclude=True, description="id of the Hugging Face hub, id@revision, or folder; empty: the usual one"
    )
    template: str = Field("", description="of phrases, with {phrase}; empty: clip's 'a photo of a {phrase}.'")
    width: int = Field(512, ge=8, le=4096, description="numbers of a vector, of hash alone")
    batch: int = Field(256, ge=1, exclude=True, description="texts at a time (not in the key)")
    device: str = Field("cpu", exclude=True, description="set by --device (not in the key)")
    allow_download: bool = Field(False, exclude=True, description="set by --allow-download (not in the key)")


class EmbedStage(Stage):
    """One unit, ``text_emb.npz``: see ``ssl3d.data.captions.embeddings``. Killed, it goes on with the next batch."""

    name = "embed"
    version = 1
    needs = ("caption",)
    counts = "text"
    command = "ssl3d embed"
    worker_bytes = 1 << 60
    Params = EmbedParams
    params: EmbedParams

    def __init__(self, params: EmbedParams, dataset: PreparedDataset) -> None:
        from ssl3d.pipeline.captioning.encode import TEMPLATES, model_name

        # the template is settled here, so that naming the usual one is no other product
        super().__init__(params.model_copy(update={"template": params.template or TEMPLATES[params.encoder]}))
        if "{phrase}" not in self.params.template:
            raise UsageError("the template has no {phrase}", where={"template": self.params.template})
        self.dataset = dataset
        self.model = model_name(params.encoder, params.model)

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        captions = upstream["caption"]
        phrases = {phrase for entry in captions.done.values() for phrase in entry.info["phrases"]}
        said = sum(entry.info["captions"] for entry in captions.done.values())
        work = (tuple(sorted(captions.done)), tuple(sorted(phrases)))
        return [Unit(UNIT, work, captions.content, size=(said + len(phrases)) * 2048, weight=said + len(phrases))]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        if self.params.encoder == "hash":
            return {}
        from ssl3d.pipeline.captioning.load import fingerprint  # not its path: a folder may be moved

        return {"model": fingerprint(self.model)}

    def about(self) -> Mapping[str, Any]:
        words = ["--encoder", self.params.encoder]
        words += ["--model", self.params.model] if self.params.model else []
        words += ["--dataset", self.dataset.name] if self.dataset.name != self.dataset.spec.name else []
        return {"command": shlex.join(["ssl3d", "embed", *words])}

    @staticmethod
    def run(unit: Unit, params: EmbedParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        import numpy as np

        from ssl3d.data.captions.embeddings import TextEmbeddings, phrase_text
        from ssl3d.pipeline.captioning.encode import make_encoder

        units, phrases = unit.work
        said = {text for name in units for text in _captions(inputs.folders["caption"] / f"{name}.image.jsonl")}
        asked = {phrase_text(phrase, params.template) for phrase in phrases}
        texts = sorted(said | asked)
        if not texts:
            raise UsageError("the captions hold no text to embed", hint="look at them: ssl3d caption --preview first")
        encoder = make_encoder(params, inputs.threads)
        rows = _Rows(out.parent / PARTIAL / f"{digest_value([texts, encoder.model])}.f2")
        for begin in range(0, len(texts), params.batch):
            batch = texts[begin : begin + params.batch]
            if begin >= len(rows):
                rows.add(encoder.encode(batch).astype(np.float16))
            step_inside(len(batch))
        emb = rows.array()[: len(texts)]
        if not np.isfinite(emb).all():
            bad = texts[int(np.flatnonzero(~np.isfinite(emb).all(axis=1))[0])]
            raise UsageError("the encoder gives no numbers for a text", where={"text": bad, "model": encoder.model})
        TextEmbeddings(tuple(texts), emb, encoder.model, params.template).save(out / f"{UNIT}.npz")
        facts = {"texts": len(texts), "captions": len(said), "phrases": len(asked), "width": int(emb.shape[1])}
        return {**facts, "model": encoder.model, "template": params.template}

    def finish(self, product: Product) -> None:
        remove_tree(product.folder / PARTIAL)

    def finished(self, product: Product) -> bool:
        return not (product.folder / PARTIAL).exists()


def _captions(path: Path) -> Iterator[str]:
    from ssl3d.data.captions.parse import read_images

    return (line.record.text for line in read_images(path))


class _Rows:
    """Vectors that survive a kill: a file of whole batches, each synced; the first number of a batch is its width."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._batches = path, list[Any]()
        content, at = path.read_bytes() if path.exists() else b"", 0
        while len(content) - at >= 8:
            count, width = np.frombuffer(content, "<u4", 2, at).tolist()
            if len(content) - at - 8 < 2 * count * width:
                break  # a kill cut it short
            self._batches.append(np.frombuffer(content, "<f2", count * width, at + 8).reshape(count, width))
            at += 8 + 2 * count * width
        with path.open("ab") as file:
            file.truncate(at)

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def add(self, batch: npt.NDArray[np.float16]) -> None:
        import os

        import numpy as np

        with self._path.open("ab") as file:
            file.write(np.array(batch.shape, "<u4").tobytes() + batch.astype("<f2").tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._batches.append(batch)

    def array(self) -> npt.NDArray[np.float16]:
        import numpy as np

        return np.concatenate(self._batches)


def embed_stage(dataset: PreparedDataset, encoder: str | None, overrides: Sequence[str] = ()) -> EmbedStage:
    """The stage that was asked for. ``encoder`` None: hash for captions of generated data, else clip.

    Raises:
        UsageError: a parameter is wrong, or the model is not here; nothing has been begun then.
    """
    captions = dataset.handle.product("caption")
    if encoder is None and captions is not None and captions.manifest.params["producer"] == "generated":
        encoder = "hash"
    given = [*overrides, *([f"embed.encoder={encoder}"] if encoder else [])]
    stage = EmbedStage(stage_params("embed", EmbedParams, dataset.spec, given), dataset)
    if stage.params.encoder != "hash":
        from ssl3d.pipeline.captioning.load import require_model

        require_model(stage.model, stage.params.allow_download)
    return stage


__all__ = ["EmbedParams", "EmbedStage", "embed_stage"]
