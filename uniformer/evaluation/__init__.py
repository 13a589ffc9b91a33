"""Scores, metrics, features, probes and reports; `uniformer.evaluate` runs the network."""
