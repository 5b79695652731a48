"""What comes from outside: pictures and sound of any video, and the public sets on disk."""
