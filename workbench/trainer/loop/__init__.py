"""The parts of the loop: what feeds it, differentiates, judges, descends and examines; none of them takes a trainer."""
