"""`imagebroker complete`: completion for bash, zsh and fish, generated from the parsers."""
