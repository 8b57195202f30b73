"""What a backend may connect to and open: addresses, redirects, proxies, paths."""
