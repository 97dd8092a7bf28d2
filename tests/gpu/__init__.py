"""Tests that need a CUDA device; elsewhere they are skipped. `make test-gpu` runs them."""
