"""Media input: frames and audio of any video or audio file, synchronised to one clock."""
