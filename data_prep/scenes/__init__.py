"""The demo corpus `scenes`: coloured shapes drawn from a seed, captioned by two grammars that share words, not style."""
