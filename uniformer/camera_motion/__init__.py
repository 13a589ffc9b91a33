"""A benchmark of camera motion that anyone can generate: 20 classes, exact ground truth, two worlds."""
