"""The named points at which a run can be hit."""

from __future__ import annotations

from tests.trainers import outcome

STEPS = 6
EVERY = {"checkpoint_every": 2, "evaluate_every": 2, "steps": STEPS}


class Loader:
    """Batches by position, and a point at which something may happen."""

    def __init__(self, batches):
        self.batches, self.position, self.at_batch = batches, 0, lambda position: None

    position = property(lambda self: self._position, lambda self, value: setattr(self, "_position", value))

    def __iter__(self):
        while True:
            batch = self.batches[self.position % len(self.batches)]
            self.position += 1
            self.at_batch(self.position)
            yield batch


class Points:
    """Where a run can be hit: calls `act` at the n-th visit to one named point of it."""

    def __init__(self, point, visit, act):
        self.point, self.left, self.act = point, visit, act

    def visit(self, point):
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                self.act()


def go_on(build, variant, folder, **more):
    trainer = build(variant, folder, **more)
    trainer.resume()
    trainer.train()
    return outcome(trainer, folder)
