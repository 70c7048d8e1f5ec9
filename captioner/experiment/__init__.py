"""What train.py and eval.py do: configuration, run directories, tasks, phases and sweeps."""
