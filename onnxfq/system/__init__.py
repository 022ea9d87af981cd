"""The operating system: files, memory, processes, terminals, compiled loops."""
