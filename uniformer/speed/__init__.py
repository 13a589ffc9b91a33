"""Inference forms of the network; each has a plain twin that the tests hold it to.

    optimize.py  the door: a model in, an inference copy out
fold.py      exact rewritings of weights: batch norms, layer scales, residuals
blocks.py    the blocks with folded weights, channels last in memory, sums in place
network.py   the network made of them
plain.py     the network as the reference computes it, to measure against
bench.py     all of them measured on this machine
choice.py    which one computes: as asked for, or as measured
convolutions.py  on a GPU: which form computes each depthwise convolution
clock.py     how long a run takes
"""
