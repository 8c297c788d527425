from __future__ import annotations
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.trainer import train


def test_x(space):
    config = resolve(
        "ddsemi",
        backbone="pointwise",
        steps=40,
        overrides=["train.workers=0", "train.lr=0.05", "train.log_every=5", "ddsemi.bank.size=20"],
    )
    run = train(space, config, device="cpu", jobs=1)
    for l in run.metrics():
        print(l["step"], l["losses"], l.get("pseudo_labels"), l.get("measures"))
    assert 0
