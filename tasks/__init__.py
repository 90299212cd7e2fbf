"""The 11 benchmarks, one module each, registered as plugins exactly as a third party's would be."""
