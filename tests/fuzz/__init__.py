"""A structure-aware fuzzer over everything this project reads; `python -m tests.fuzz.run --help`."""
