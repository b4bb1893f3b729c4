"""Meta-Dataset on its own files: few-shot classification over ten data sets of images."""
