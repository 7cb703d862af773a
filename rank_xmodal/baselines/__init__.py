"""Rankings without training, to compare with."""
