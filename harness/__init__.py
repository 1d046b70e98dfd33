"""One training run of a super-resolution GAN: data -> model -> step -> checkpoint, on however many ranks."""

__version__ = "0.1.0"
