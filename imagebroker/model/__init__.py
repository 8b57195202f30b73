"""The values that everybody speaks of: refs, records, queries, and what an upload brings."""
