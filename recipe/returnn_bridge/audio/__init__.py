"""Corpora with audio: Bliss XML, and the OggZip files that RETURNN's OggZipDataset reads."""
