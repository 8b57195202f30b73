"""What may be reached: addresses, redirects, proxies."""
