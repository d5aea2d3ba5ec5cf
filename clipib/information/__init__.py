"""Estimators of information, pointwise mutual information and geometry: pure functions on tensors, in nats."""
