"""What must hold for the stored bytes. A check is a value; a running one belongs to one attempt."""
