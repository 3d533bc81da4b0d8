"""The parts of parity.py: import of the originals' code (imports.py), shared input (inputs.py), comparisons."""
