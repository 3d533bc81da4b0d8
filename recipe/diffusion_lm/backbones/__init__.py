"""Networks. A backbone receives a visibility, never a family name."""
