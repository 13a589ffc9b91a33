"""The parts of a training run; `uniformer.train` puts them together."""
