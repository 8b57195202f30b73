"""The checks of the stored bytes. A check is a value; a running one belongs to one attempt."""
