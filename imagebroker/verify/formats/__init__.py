"""What the disk formats look like, one module each; `content.inspect` reads them all."""
