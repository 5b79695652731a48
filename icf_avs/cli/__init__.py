"""Commands of `icf`: their options and the functions they call. Heavy imports happen only when a command runs."""
