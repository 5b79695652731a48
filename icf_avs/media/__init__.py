"""Any video or sound file: frames and sound on one clock."""
