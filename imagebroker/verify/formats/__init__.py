"""The disk formats, one module each; `content.inspect` reads them all."""
