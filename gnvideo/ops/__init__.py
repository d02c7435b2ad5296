"""Tensor operators: what each computes, its implementations, and what each of these accepts."""
