"""What the paper does not have: losses that train any network of icf_avs/networks beside those of ICF."""
