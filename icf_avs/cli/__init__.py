"""The commands of `icf`: their options and what they call. Nothing heavy is imported before a command runs."""
