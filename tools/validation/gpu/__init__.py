"""What is measured on a CUDA device in the few minutes that one can be had: see ``__main__``."""
