"""What `make bench` runs, each by hand as ``python -m tests.benchmarks.<name>``; never part of the tests."""
