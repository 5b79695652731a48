"""`icf data compose`: pictures with masks and recordings from anywhere become a set in the AVSS layout.

As Visual Post-production does (VPO; Chen et al., CVPR 2024): what is in a picture is given the sound of its class.
"""
