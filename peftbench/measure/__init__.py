"""Clock, memory ledger and environment: the rulers."""
