"""The parts of training.py: a step of ours, one of MDLM's own code, what the commands measure."""
