"""What each verb of the broker does, once it has its snapshot."""
