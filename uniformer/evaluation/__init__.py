"""Scores, metrics, features, probes and reports; `uniformer.evaluation.run` runs the network."""
