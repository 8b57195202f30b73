"""The deployer's configuration, and the file and line of each option."""
