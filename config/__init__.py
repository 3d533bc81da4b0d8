"""Experiments as Sisyphus graphs: `sis manager config/demo.py`, `sis manager config/librispeech.py`. Graph only, nothing is computed here."""
