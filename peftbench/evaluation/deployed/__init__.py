"""The score of a tuned model in the forms in which it is deployed: merged, quantized again, as a plain LoRA."""
