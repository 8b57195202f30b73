"""The values that all layers use: refs, records, queries, and the data of uploads."""
