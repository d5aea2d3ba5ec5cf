"""Digitworld: small scenes of real handwritten digits whose pointwise mutual information with any caption is known."""
