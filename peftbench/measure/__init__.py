"""Measurement that knows nothing of training: clock, memory ledger, peaks, energy, NVML, environment, device."""
