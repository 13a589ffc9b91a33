"""The parts of a training run; `uniformer.training.loop` puts them together."""
