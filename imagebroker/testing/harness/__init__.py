"""What a backend is observed with: its connections, its calls, and what it leaves behind."""
