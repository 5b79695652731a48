"""The ablation study: rows and controls on the same scenes, with the same taught ear, scored under four sounds."""
