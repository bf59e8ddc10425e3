"""File formats: each module turns one row of a file into records, and records into rows. Pure functions, no files."""
