"""Speed and memory of a mounted tree, measured beside its peers on one honest S3 endpoint; see docs/BENCHMARKS.md."""
