"""What ``peftbench init`` finds out of data and base model, chooses from it, and writes as a suite."""
