"""Work that is done elsewhere, and what is handed to and fro."""
