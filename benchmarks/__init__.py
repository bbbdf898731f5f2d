"""Benchmarks of fusedrnn against torch.nn."""
