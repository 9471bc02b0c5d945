import pytest
import torch
from shapes import Contrastive

from tacit.tracking import TensorBoard
from tacit.training import fit


def test_the_event_file_holds_the_loss_of_each_step(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    losses = []

    class Keep(TensorBoard):
        def step(self, step, loss, lr, health):
            losses.append(loss)
            super().step(step, loss, lr, health)

    fit(Contrastive(), torch.rand(64, 8, 8), max_steps=5, batch_size=16, callbacks=[Keep(tmp_path)])
    (file,) = tmp_path.iterdir()
    raw, at, found = file.read_bytes(), 0, []
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 8], "little")
        event = Event.FromString(raw[at + 12 : at + 12 + size])
        found += [value.simple_value for value in event.summary.value if value.tag == "loss"]
        at += 12 + size + 4
    assert len(losses) == 5
    assert found == pytest.approx(losses, rel=1e-6)
