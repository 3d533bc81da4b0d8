"""The parts of parity.py: the import of the originals' code (imports.py), the shared input (inputs.py), the comparisons."""
