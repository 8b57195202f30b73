"""A fleet on one machine: hosts in network namespaces, each with a link of its own."""
