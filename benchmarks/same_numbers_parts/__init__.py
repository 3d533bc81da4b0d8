"""Parts of benchmarks/same_numbers.py."""
