"""Verbs that compare settings: study, grid, paper, demo, compare."""

COMMANDS = ()
