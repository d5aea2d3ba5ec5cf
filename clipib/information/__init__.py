"""Information and geometry of feature sets as pure functions on tensors; natural logarithms, nats."""
