"""Object detection at any width."""
