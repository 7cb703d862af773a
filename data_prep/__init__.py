"""From images and captions to embedding sets and candidate lists."""
