"""The parts of interruptions.py: inputs, the commands, one process, the trials, what is demanded of what they leave."""
