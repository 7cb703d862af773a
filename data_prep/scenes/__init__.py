"""The demo corpus `scenes`: coloured shapes drawn from a seed, captioned in two styles that share words only."""
