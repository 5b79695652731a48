"""One score for a model under its true and under negative sounds (AVSBench-Robust, arXiv 2502.00358)."""

from __future__ import annotations


def g_score(positive: float, negative: float) -> float:
    """Harmonic mean of m+ and 1 - m-: G-mIoU of two mIoU, G-F of two F. NaN if either is NaN.

    positive   m+, the score under the true sound, in [0, 1]
    negative   m-, the score under negative sounds against the original masks, in [0, 1]; lower is better

        G = 2 * m+ * (1 - m-) / (m+ + 1 - m-), 0 where both parts are 0   (PROTOCOLS: inferred from published values)

    Raises ValueError for a score outside [0, 1], such as a percentage.
    """
    for name, value in (("positive", positive), ("negative", negative)):
        if value < 0 or value > 1:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
    both = positive + (1 - negative)
    return 2 * positive * (1 - negative) / both if both else 0.0
