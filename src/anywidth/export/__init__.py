"""Stand-alone files of one width, one function for each format."""
