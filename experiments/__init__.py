"""What runs and compares trainings: the command line, one training from lists to report, tables and plots."""
