"""What the deployer has written down, and where each option stands."""
