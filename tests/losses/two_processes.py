"""Run as a script by each of two processes: losses and gradients of both together are those of the whole batch."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from tacit.losses import info_nce, nt_xent
from tacit.nn import Queue, gather

LOSSES = {
    "nt_xent": lambda a, b, queue: nt_xent(a, b, 0.2),
    "info_nce": lambda a, b, queue: info_nce(a, b, 0.2),
    "info_nce with negatives": lambda a, b, queue: info_nce(a, b, 0.2, queue),
}


def loss_and_gradients(name, a, b, queue):
    torch.manual_seed(0)
    network = nn.Linear(6, 4).double()
    loss = LOSSES[name](network(a), network(b), queue)
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters())]


def main(rank, file):
    torch.manual_seed(1)
    a, b, queue = (torch.randn(n, 6 if n == 8 else 4, dtype=torch.float64) for n in (8, 8, 9))
    whole = {name: loss_and_gradients(name, a, b, queue) for name in LOSSES}
    held = Queue(12, 4)

    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mine = slice(4 * rank, 4 * rank + 4)
    for name in LOSSES:
        averaged = loss_and_gradients(name, a[mine], b[mine], queue)
        for tensor in averaged:
            dist.all_reduce(tensor)
            tensor /= 2
        torch.testing.assert_close(averaged, whole[name], msg=lambda message, name=name: f"{name}: {message}")

    x = a[mine].clone().requires_grad_()
    gathered = gather(x)
    assert torch.equal(gathered, a)
    weights = torch.arange(48.0, dtype=torch.float64).view(8, 6) * (rank + 1)
    (gathered * weights).sum().backward()
    torch.testing.assert_close(x.grad, 3 * weights[mine] / (rank + 1))  # what both processes say: 1 + 2 times

    held.push(queue[mine].float())
    torch.testing.assert_close(held.items[:8], nn.functional.normalize(queue[:8].float(), dim=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
