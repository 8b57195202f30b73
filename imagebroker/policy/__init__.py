"""The policy for connections and files: addresses, redirects, proxies, paths."""
