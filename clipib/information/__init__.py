"""Estimators and bounds of information, as pure functions on tensors; every number is in nats."""
