"""Experiments as Sisyphus graphs: `sis manager config/demo.py` and `sis manager config/librispeech.py`."""
