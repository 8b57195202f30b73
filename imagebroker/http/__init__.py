"""What plugins that speak HTTP share."""
