"""People into records: the store, files in and out, and simulated annotators."""
