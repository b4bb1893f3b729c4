"""Differentiable operations of a block on kernels of raymeta's own; see `raymeta/ops/native` for what they compute."""
